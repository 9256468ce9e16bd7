"""The bench of the MoE layer: every form computes the same layer, and no speed is reported where one does not."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from kernels import ops
from recsys.bench import moe_oracle
from recsys.bench.moe import MoeBench, run, run_and_report
from recsys.bench.moe_forms import DROPLESS, OURS, STATIC, TORCH, forms
from recsys.bench.moe_report import promises
from recsys.bench.moe_shapes import Case, cases
from recsys.bench.moe_worker import inputs
from recsys.errors import InputError

TINY = Case("tiny", 24, 16, 24, 4)


def test_sizes_count_the_work_that_nobody_avoids() -> None:
    case = Case("one", 10, 4, 8, 2, k=1)
    assert case.flops == 10 * 3 * 2 * 4 * 8 + 10 * 2 * 4 * 2
    assert case.least_bytes(4) == 4 * (2 * 10 * 4 + 2 * 3 * 4 * 8)
    names = [case.name for case in cases(quick=False)]
    assert {"T64", "R1", "R16", "S1", "S2", "S6"} <= set(names)
    assert "S5" not in names
    assert len(cases(quick=True)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_form_computes_the_layer(dtype: torch.dtype) -> None:
    weights, batches = inputs(TINY, dtype)
    made, missing = forms(weights, with_compile=False)
    assert {*TORCH, *OURS[:2]} <= set(made)
    assert all(missing.values())
    with torch.no_grad():
        for (name, form), x_TD in zip(made.items(), batches["crowd"] * 4, strict=False):
            y_TD = form.run(x_TD)
            ids_TK, gates_TK = form.routing(x_TD)
            moe_oracle.check_layer(
                *(y_TD, x_TD, ids_TK, gates_TK, weights.up_ED2H, weights.down_EHD), name=name, ours=name in OURS
            )
            if name == STATIC:
                assert torch.bincount(ids_TK.flatten(), minlength=4).tolist() == [12] * 4


def test_tokens_have_the_gate_scores_of_their_topics() -> None:
    weights, batches = inputs(TINY, torch.float32)
    calm, crowd = (
        torch.cat([ops.gate_scores(x_TD, weights.gate_DE) for x_TD in batches[stream]]).mean(0)
        for stream in ("calm", "crowd")
    )
    assert float(crowd.max()) > float(calm.max())


def test_a_report_of_a_moment(tmp_path: Path) -> None:
    out, printed = tmp_path / "moe.csv", StringIO()
    options = MoeBench(cases=(TINY,), threads=(1,), seconds=0.002)
    rows = run_and_report(options, out, tmp_path, console=Console(file=printed, width=200))
    written = list(csv.DictReader(out.read_text().splitlines()))
    assert len(written) == len(rows)
    assert {row["stream"] for row in written} == {"calm", "crowd"}
    assert {STATIC, DROPLESS, *TORCH} <= {row["form"] for row in written}
    assert all(float(row["us"]) > 0 for row in written)
    assert (tmp_path / "moe-cpu-roofline.png").stat().st_size > 10_000
    assert "expert loop" in printed.getvalue()
    assert "takes float32 alone" in printed.getvalue()
    assert promises(rows).row_count == 1  # tiny is no size that was promised anything but to beat grouped_mm


def test_a_form_that_is_wrong_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.moe_experts
    monkeypatch.setattr(ops, "moe_experts", lambda *a, **named: right(*a, **named) * 1.0001)
    with pytest.raises(moe_oracle.OracleError, match=r"error 1\.0e-04 is more than 1e-06"):
        moe_oracle.check_oracle()


def test_a_process_that_fails_is_no_report(tmp_path: Path) -> None:
    narrow = Case("narrow", 8, 4, 4, 16)  # a gate of 16 orthonormal columns needs a width of 16
    with pytest.raises(InputError, match="no speed is reported"):
        run_and_report(MoeBench(cases=(narrow,), threads=(1,)), tmp_path / "moe.csv", tmp_path, console=Console())
    assert not (tmp_path / "moe.csv").exists()


def test_threads_are_checked() -> None:
    with pytest.raises(InputError, match="threads must be numbers from 1"):
        MoeBench.of(quick=True, threads=(0,))


def test_a_worker_that_complains_at_length_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nseq 100000 >&2\necho the last word >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(InputError, match="no speed is reported: the last word"):
        run(MoeBench(cases=(TINY,), threads=(1,)))
