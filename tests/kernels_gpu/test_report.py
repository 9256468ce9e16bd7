"""The report of a GPU run from rows as a run makes them, measured or not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed here")

from kernels.gpu import report
from kernels.gpu.shapes import SHAPES


def rows() -> list[report.Row]:
    made: list[report.Row] = []
    for name in ("S2", "S3"):
        base = SHAPES[name]._asdict() | {"shape": name, "routing": "calm", "floor_us": 2.0}
        ours = {"median_us": 10.0, "share_of_floor": 0.2, "status": "ok"}
        made.append(base | ours | {"form": "ours: dropless", "predicted_us": 16.0})
        made.append(base | ours | {"form": "ours: balanced", "predicted_us": 90.0, "median_us": 60.0})
        made.append(base | {"form": "padded bmm", "median_us": 40.0, "status": "ok"})
        made.append(base | {"form": "liger_kernel", "status": "failed: ImportError: absent"})
    made.append(SHAPES["S6"]._asdict() | {"shape": "S6", "routing": "crowd", "floor_us": 8.1, "status": "wrong",
                                          "form": "ours: dropless", "predicted_us": 36.0})  # fmt: skip
    return made


def test_table_sets_measurement_beside_prediction_and_rivals_as_ratios() -> None:
    lines = report.markdown(rows(), "a device").splitlines()
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|")
    assert lines[4] == "| S2 | calm | 2.0 | 16 | 10.0 | 20 % | 60.0 | 4.00 |  |"
    assert lines[6] == "| S6 | crowd | 8.1 |  | not measured |  |  |  |  |"
    assert len(report.markdown([], "a device").splitlines()) == 4


def test_picture_is_drawn_of_what_was_timed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert report.draw(rows(), tmp_path / "roofline.png", "a device")
    assert struct.unpack(">II", (tmp_path / "roofline.png").read_bytes()[16:24])[0] > 500
    assert not report.draw(rows()[-1:], tmp_path / "none.png", "a device")
    assert not (tmp_path / "none.png").exists()
