"""Settings are documented, bounded, and wrong ones are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.config import Settings, reference_table

ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_table_is_the_real_one() -> None:
    assert reference_table() in (ROOT / "docs" / "settings.md").read_text()


def test_every_setting_says_what_it_means() -> None:
    assert all(row.split("|")[4].strip() not in ("", "None") for row in reference_table().splitlines()[2:])


def test_nested_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_ENGINE__QUEUE_MAX", "7")
    assert Settings().engine.queue_max == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECSYS_ENGINE__QUEUE_MAX", "0"),
        ("RECSYS_API__PORT", "99999"),
        ("RECSYS_ROUTER__CAPACITY_FACTOR", "0.5"),
        ("RECSYS_ENGINE__DEVICE", "abacus"),
        ("RECSYS_STATE__HISTORY_MAX", "many"),
        ("RECSYS_ENGINE__NO_SUCH_SETTING", "1"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_variable(name: str, value: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "recsys.cli", "serve", "worker"],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert name in run.stderr
    assert "Traceback" not in run.stderr
