"""The compiled kernels are optional: without a compiler, a folder or the processor, torch serves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kernels.cpu import library


def test_what_they_serve(in_form: Callable) -> None:
    half, single, double = (torch.ones(2, dtype=d) for d in (torch.bfloat16, torch.float32, torch.float64))
    with in_form():
        there = library.serves(single)
        assert library.serves(half, half) == there
        assert not library.serves(double)
        assert not library.serves(single, half)


def test_no_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_folders", lambda: [tmp_path])
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        library.build()


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_folders", lambda: [tmp_path])
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match="false failed"):
        library.build()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()  # as on a read-only disk: an OSError that is no PermissionError
    monkeypatch.setattr(library, "_folders", lambda: [tmp_path / "file" / "folder", tmp_path / "file"])
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(RuntimeError, match="no folder"):
        library.build()


def test_nobody_needs_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user that is not known
    assert library._folders() == [Path(library.__file__).parent / "__pycache__"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert library._folders()[1:] == [Path("/cache/recsys-moe")]


def test_other_processors_take_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    library._library.cache_clear()
    try:
        assert not library.serves(torch.ones(1))
    finally:
        library._library.cache_clear()


def test_a_library_that_is_not_there_or_broken_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_folders", lambda: [tmp_path / "none", tmp_path])
    (tmp_path / library._file_name()).write_bytes(b"not a library")
    library._library.cache_clear()
    try:
        assert library._library() is None
    finally:
        library._library.cache_clear()
