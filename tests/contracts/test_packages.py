"""Our packages are ours, and each imports with no more than it needs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["recsys", "router", "kernels", "dashboard", "loadtest"])
def test_the_package_of_that_name_is_the_one_of_this_repository(name: str) -> None:
    module = importlib.import_module(name)
    assert Path(module.__file__ or "").parent == ROOT / name


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("recsys.api.app", ["torch", "triton", "streamlit", "locust"]),
        ("recsys.events.worker", ["torch", "triton", "fastapi"]),
        ("kernels.ops", ["triton", "redis", "fastapi", "polars", "scipy"]),
        ("router.router", ["triton", "redis", "fastapi", "polars", "scipy"]),
        ("recsys.model.recommender", ["triton", "redis", "fastapi", "polars", "msgspec", "pydantic"]),
    ],
)
def test_it_imports_where_these_are_missing(module: str, absent: list[str]) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import {module}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
