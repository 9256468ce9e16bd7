"""Layouts are measured as processes, and the choice follows from the figures alone."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.config import EngineSettings
from recsys.engine import tune
from recsys.engine.tune import Layout, Tried, as_env, best, gpus, layouts, measure
from recsys.errors import InputError


def test_layouts_leave_a_core_free() -> None:
    assert layouts(1) == [Layout(1, 1)]
    assert layouts(2) == [Layout(1, 1)]
    assert layouts(4) == [Layout(1, 1), Layout(2, 1), Layout(3, 1), Layout(1, 2)]
    assert all(layout.engines * layout.threads <= 15 for layout in layouts(16))
    assert Layout(15, 1) in layouts(16)


def test_every_gpu_gets_one_engine_unless_the_settings_say_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layouts(16, gpus=3) == [Layout(3, 1, "cuda")]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus("auto") == ["0", "1"]
    assert gpus("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab12")
    assert gpus("cuda") == ["3", "GPU-ab12"]


def tried(engines: int, batch: int, per_s: float, p50_ms: float) -> Tried:
    return Tried(Layout(engines, 1), batch, per_s, p50_ms, 2 * p50_ms)


def test_the_fastest_that_meets_the_delay_is_chosen_and_among_equals_the_smallest() -> None:
    slow, small, large = tried(3, 32, 900, 60), tried(1, 8, 290, 10), tried(3, 16, 820, 20)
    alike = tried(3, 8, 800, 10)
    assert best([slow, small, large, alike], wait_max_ms=50) is alike
    assert best([slow, small, large, alike], wait_max_ms=200) is slow
    assert best([slow, small], wait_max_ms=1) is small


def test_a_model_is_measured_and_the_settings_are_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "BATCHES", (1, 4))
    monkeypatch.setattr(tune, "layouts", lambda *_: [Layout(2, 1)])
    out = tmp_path / "tune.env"
    monkeypatch.setattr(
        "recsys.logging.configure_logging", lambda *, as_json: None
    )  # it would keep the runner's stderr
    result = CliRunner().invoke(app, ["tune", str(tiny_model), "--seconds", "0.05", "--out", str(out)])
    assert result.exit_code == 0, result.output
    written = dict(line.split("=") for line in out.read_text().splitlines() if not line.startswith("#"))
    assert written["RECSYS_ENGINE__THREADS"] == "1"
    assert written["RECSYS_ENGINE__BATCH_MAX"] in {"1", "4"}
    assert "engines to start: 2" in out.read_text()


def test_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model folder"):
        measure(tmp_path, [Layout(1, 1)], EngineSettings(), seconds=0.1)


def test_the_file_says_where_it_came_from() -> None:
    text = as_env(tried(3, 16, 820, 20.0), cores=4, model=Path("models/ml-1m"))
    assert text.startswith("# recsys tune: 4 cores, model ml-1m, 820 requests/s")
    assert text.endswith("RECSYS_ENGINE__BATCH_MAX=16\n")
    assert "cuda" not in text.lower()
    assert "(recsys demo --engines 3)" in text
    on_gpus = as_env(Tried(Layout(2, 1, "cuda"), 64, 9000, 3.0, 4.0), cores=16, model=Path("models/ml-1m"))
    assert "RECSYS_ENGINE__DEVICE=cuda\n" in on_gpus
    assert "CUDA_VISIBLE_DEVICES=0" in on_gpus
    assert "recsys demo" not in on_gpus, "its engines would share one GPU"
