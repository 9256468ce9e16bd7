"""Options are bounded, documented and the same by every way in; only this machine is a target."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import configargparse
import pytest

import loadtest
from loadtest.options import LoadTestError, Options, add_arguments, as_arguments, check_target, flag


def parse(*arguments: str) -> Options:
    parser = configargparse.ArgumentParser()
    add_arguments(parser)
    return Options.from_namespace(parser.parse_args(list(arguments)))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rate": 0}, "--rate: 0 is not within 0.01 and 20000"),
        ({"rate": float("nan")}, "--rate: nan"),
        ({"duration": 1e9}, "--duration"),
        ({"crowd_share": 0.3}, "--crowd-share: 0.3 is not within 0.5 and 1"),
        ({"outstanding": 0}, "--outstanding"),
        ({"timeout": float("inf")}, "--timeout"),
        ({"shape": "square"}, "--shape: 'square' is not one of steady, step, flash_crowd"),
        ({"shape": "flash_crowd", "duration": 30.0}, "--duration: 30.0 s leaves no calm"),
        ({"shape": "dead_expert", "duration": 30.0}, "--duration: 30.0 s leaves no calm"),
        ({"shape": "replay"}, "--events-file: --shape replay needs a file"),
        ({"excitation": 1.0}, "--excitation: 1.0 is not within 0 and 0.95"),
        ({"shape": "demo", "crowd_every": 10.0}, "--crowd-every: 10.0 s leaves no calm"),
    ],
)
def test_a_value_out_of_bounds_names_the_flag_and_the_bounds(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(LoadTestError) as error:
        Options(**given)
    assert complaint in str(error.value)


def test_flags_environment_and_defaults_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse() == Options()
    monkeypatch.setenv("LOADTEST_CROWD_FACTOR", "7")
    assert parse().crowd_factor == 7
    assert parse("--crowd-factor", "8").crowd_factor == 8


def test_options_survive_the_command_line() -> None:
    options = Options(shape="flash_crowd", rate=3.5, category="a b", seed=2**40, allow_remote=True)
    assert parse(*as_arguments(options)) == options


def test_the_readme_documents_every_option_with_its_default() -> None:
    readme = (Path(loadtest.__file__).parent / "README.md").read_text()
    for spec in fields(Options):
        default = "" if spec.default == "" else f"`{spec.default}`"
        assert f"| `{flag(spec.name)}` | {default} |" in readme


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.3.2.1", "http://127.3.2.1"),
        ("http://localhost:80/", "http://localhost:80"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_this_machine_is_a_target(host: str, target: str) -> None:
    assert check_target(host, allow_remote=False) == target


@pytest.mark.parametrize("host", ["http://example.com", "http://10.0.0.7:8000", "http://127.0.0.1.example.com"])
def test_another_machine_is_one_only_if_permitted(host: str) -> None:
    with pytest.raises(LoadTestError, match="--allow-remote permits it"):
        check_target(host, allow_remote=False)
    assert check_target(host, allow_remote=True) == host


@pytest.mark.parametrize("host", [None, "", "localhost:8000", "ftp://localhost", "http://:80", "http://localhost:x"])
def test_a_malformed_target_is_refused(host: str | None) -> None:
    with pytest.raises(LoadTestError, match="--host"):
        check_target(host, allow_remote=True)
