"""Gates of a model, recorded and drawn from again; the commands around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from recsys.bench.gate_recording import load_gates, record_gates
from recsys.bench.simulation import parse_fault
from recsys.errors import DataFileError, InputError
from router.lanes import Fault


@pytest.fixture(scope="module")
def recording(tiny_model: Path, tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gates") / "gates.safetensors"
    quiet = Console(quiet=True)
    scores_LRNE = record_gates(tiny_model, tiny_world, out, requests=30, candidates=25, console=quiet)
    assert scores_LRNE.shape[0] == 2
    assert scores_LRNE.shape[2:] == (25, 8)
    assert 1 <= scores_LRNE.shape[1] <= 30
    return out


def test_scores_are_gates(recording: Path) -> None:
    for layer in (0, 1):
        scores_TE = load_gates(recording, layer=layer).draw(300, seed=1)
        assert scores_TE.dtype == torch.float32
        assert torch.allclose(scores_TE.sum(dim=1), torch.ones(300), atol=1e-5)
    with pytest.raises(DataFileError, match=r"layer 2 is not in 0\.\.1"):
        load_gates(recording, layer=2)


def test_a_file_of_another_kind_is_named(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(DataFileError, match=r"none\.safetensors: not a recording"):
        load_gates(tmp_path / "none.safetensors")
    with pytest.raises(DataFileError, match="not a recording"):
        load_gates(tiny_model / "model.safetensors")
    (tmp_path / "text").write_text("no")
    with pytest.raises(DataFileError, match="not a recording"):
        load_gates(tmp_path / "text")


def test_simulate_runs_a_recording_and_names_what_is_wrong(
    recording: Path, tmp_path: Path, run_process: Callable[[list[str], dict[str, str]], tuple[int, str]]
) -> None:
    small = ["simulate", "--gates", str(recording), "--tokens", "64", "--lanes", "4", "--seconds", "0.3"]
    code, shown = run_process([*small, "--policies", "topk,price", "--out", str(tmp_path / "s.csv")], {})
    assert code == 0, shown
    assert "price" in shown
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 9
    code, shown = run_process([*small, "--policies", "nope"], {})
    assert (code, "policy 'nope' is not one of" in shown) == (2, True)


def test_faults_are_read_as_documented() -> None:
    assert parse_fault("3:1.5", "--dead") == Fault(3, 0.0, 1.5)
    assert parse_fault("3:0.5:1:2", "--slow") == Fault(3, 0.5, 1.0, 2.0)
    for text, option in (("3", "--dead"), ("x:1", "--dead"), ("3:1:2:3", "--dead"), ("3:0.5", "--slow")):
        with pytest.raises(InputError, match=option):
            parse_fault(text, option)
