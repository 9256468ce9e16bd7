"""The cases of the Triton kernels in Triton's interpreter: a process of their own, for a switch is read at import.

Where a CUDA device is at hand the same cases run on it as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

CASES = Path(__file__).parent / "cases"
ROOT = CASES.parents[2]


@pytest.fixture(scope="module")
def report(cases_in_interpreter: tuple[subprocess.Popen[str], Path]) -> ElementTree.Element:
    """Result of every case, as JUnit XML."""
    process, path = cases_in_interpreter
    output, _ = process.communicate(timeout=600)
    assert path.exists(), output
    return ElementTree.parse(path).getroot()


@pytest.mark.parametrize("file", sorted(path.stem for path in CASES.glob("test_*.py")))
def test_cases_in_the_interpreter(report: ElementTree.Element, file: str) -> None:
    cases = [case for case in report.iter("testcase") if case.get("classname", "").endswith(file)]
    assert cases
    failed = {case.get("name"): part.text for case in cases for part in case if part.tag in ("failure", "error")}
    assert not failed, "\n\n".join(f"{name}\n{text}" for name, text in failed.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cases_on_the_device() -> None:
    command = [sys.executable, "-m", "pytest", str(CASES), f"--confcutdir={CASES}", "-q"]
    run = subprocess.run(command, env=os.environ | {"KERNELS_ON_GPU": "1"}, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_gpu_run_walks_through_in_the_interpreter(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kernels.gpu.run", "--interpret", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = (tmp_path / "moe_layer.csv").read_text().splitlines()
    assert len(lines) == 1 + 7
    assert all("interpreter: no time reported" in line for line in lines[1:])
    assert "not measured" in (tmp_path / "moe_layer.md").read_text()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 8


def test_without_a_device_the_gpu_run_says_so(tmp_path: Path) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "kernels.gpu.run", "--out", str(tmp_path / "none")]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert "no CUDA device" in run.stdout
    assert not (tmp_path / "none").exists()
