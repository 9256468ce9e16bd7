"""Triton is imported where it is used, never at start-up: a CPU machine has no use for what it takes."""

from __future__ import annotations

import subprocess
import sys


def test_operations_router_and_model_import_no_triton() -> None:
    code = "import sys, kernels.ops, router.policies.base, recsys.model.ranker; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
