"""Starts the interpreter's process at once: it works while the compiler tests run in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "cases"
ROOT = CASES.parents[2]


@pytest.fixture(scope="session", autouse=True)
def cases_in_interpreter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], Path] | None]:
    """The running process and the path of its report; None where no test asks for it."""
    if not any("cases_in_the_interpreter" in item.name for item in request.session.items):
        yield None
        return
    path = tmp_path_factory.mktemp("interpreter") / "report.xml"
    command = [sys.executable, "-m", "pytest", str(CASES), f"--confcutdir={CASES}", f"--junitxml={path}", "-q"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield process, path
    process.kill()
    process.communicate()
