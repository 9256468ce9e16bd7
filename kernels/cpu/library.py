"""Compiles and loads the kernels of this folder: `python -m kernels.cpu.library`. Seconds, once per version.

They are optional. They serve where this command has run (g++ is needed for that alone) and the processor
has AVX-512 with bfloat16 (Zen 4, Sapphire Rapids and later); everywhere else torch computes the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCES = ("route.cpp", "rank.cpp", "slots.cpp", "experts.cpp", "combine.cpp", "peak.cpp")
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fopenmp", "-Wall")
TARGET = ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16")
NEEDED = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16")
LEAST_FLOPS_PER_THREAD = 4_000_000
"""Below this, waking a thread costs more than it saves."""
_wanted = True
_HERE = Path(__file__).parent
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def serves(*tensors: Tensor) -> bool:
    """Whether these kernels can compute with tensors of this type, here."""
    first = tensors[0]
    return first.dtype in _TYPES and all(t.dtype == first.dtype for t in tensors) and serves_plans(first)


def serves_plans(tensor: Tensor) -> bool:
    """Whether these kernels can read plans on the device of a tensor, here."""
    return _wanted and tensor.device.type == "cpu" and _library() is not None


def route(
    logits_TE: Tensor, bias_E: Tensor | None, prices_E: Tensor | None, k: int, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launcher of `route.cpp`: scores, ids, gates, ranks and loads, as `kernels.plan.route_and_plan` has them."""
    (tokens, experts), new = logits_TE.shape, logits_TE.new_empty
    logits_TE = logits_TE.float().contiguous()
    bias_E, prices_E = (
        None if t is None else _fitting(name, t.detach().float(), (experts,), torch.float32)
        for name, t in (("bias", bias_E), ("prices", prices_E))
    )
    ids_TK, rank_TK = (new((tokens, k), dtype=torch.int64) for _ in range(2))
    scores_TE, gates_TK = torch.empty_like(logits_TE), new((tokens, k), dtype=torch.float32)
    load_E = new(experts, dtype=torch.int64)
    pointers = (logits_TE, bias_E, prices_E, scores_TE, ids_TK, gates_TK, rank_TK, load_E)
    _function("route")(
        *(None if t is None else t.data_ptr() for t in pointers),
        *(tokens, experts, k, -1 if capacity is None else capacity),
    )
    return scores_TE, ids_TK, gates_TK, rank_TK, load_E


def rank_slots(expert_ids_TK: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Launcher of `rank.cpp`: ranks (T, K) and loads (E), as `kernels.selection.rank_slots` has them."""
    expert_ids_TK = _fitting("expert_ids", expert_ids_TK, expert_ids_TK.shape)
    rank_TK, load_E = torch.empty_like(expert_ids_TK), expert_ids_TK.new_empty(experts)
    pointers = (t.data_ptr() for t in (expert_ids_TK, rank_TK, load_E))
    _function("rank_slots")(*pointers, expert_ids_TK.numel(), experts)
    return rank_TK, load_E


def slot_rows(expert_ids_TK: Tensor, rank_TK: Tensor, load_E: Tensor, capacity: int | None) -> Tensor:
    """Launcher of `slots.cpp`: int64 (T, K), as `kernels.plan.slot_rows` has it."""
    expert_ids_TK = _fitting("expert_ids", expert_ids_TK, expert_ids_TK.shape)
    rank_TK, load_E = _fitting("rank", rank_TK, expert_ids_TK.shape), _fitting("load", load_E, (load_E.numel(),))
    slot_TK = torch.empty_like(expert_ids_TK)
    _function("slot_rows")(
        *(t.data_ptr() for t in (expert_ids_TK, rank_TK, load_E, slot_TK)),
        *(slot_TK.numel(), load_E.numel(), -1 if capacity is None else capacity),
    )
    return slot_TK


def experts(
    x_TD: Tensor, slot_TK: Tensor, load_E: Tensor, w_up: Tensor, w_down: Tensor, capacity: int | None
) -> Tensor:
    """Launcher of `experts.cpp`: (rows + 1, D) in expert order, as `kernels.experts.expert_ffn` has it."""
    (tokens, width), k, (count, hidden, _) = x_TD.shape, slot_TK.shape[1], w_down.shape
    rows = tokens * k if capacity is None else count * capacity
    y_SD = x_TD.new_empty(rows + 1, width)
    x_TD, slot_TK, load_E = (
        x_TD.contiguous(),
        _fitting("slot", slot_TK, (tokens, k)),
        _fitting("load", load_E, (count,)),
    )
    w_up = _fitting("w_up", w_up, (count, width, 2 * hidden), x_TD.dtype)
    w_down = _fitting("w_down", w_down, (count, hidden, width), x_TD.dtype)
    _function(f"experts_{_TYPES[x_TD.dtype]}")(
        *(t.data_ptr() for t in (x_TD, slot_TK, load_E, w_up, w_down, y_SD)),
        *(tokens, k, count, width, hidden, -1 if capacity is None else capacity),
        _threads(6 * tokens * k * width * hidden),
    )
    return y_SD


def combine(y_SD: Tensor, slot_TK: Tensor, gates_TK: Tensor) -> Tensor:
    """Launcher of `combine.cpp`: (T, D), as `kernels.combine.combine` has it."""
    (tokens, k), width = slot_TK.shape, y_SD.shape[1]
    y_TD = y_SD.new_empty(tokens, width)
    y_SD, slot_TK = y_SD.contiguous(), _fitting("slot", slot_TK, (tokens, k))
    gates_TK = _fitting("gates", gates_TK.float(), (tokens, k), torch.float32)
    _function(f"combine_{_TYPES[y_SD.dtype]}")(
        *(t.data_ptr() for t in (y_SD, slot_TK, gates_TK, y_TD)),
        *(tokens, k, width, y_SD.shape[0] - 1),
        _threads(32 * tokens * k * width),  # it waits for memory, not for arithmetic
    )
    return y_TD


def _fitting(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.int64) -> Tensor:
    """The tensor, contiguous. Kernels read by address: what does not fit must be found before."""
    if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
        found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        raise ValueError(f"{name} must be {dtype} {tuple(shape)} on the CPU, not {found}")
    return tensor.contiguous()


def peak_flops(dtype: torch.dtype, *, repeats: int = 2_000_000) -> float:
    """Multiplications and additions per second on the threads that torch has: the best of three runs of `peak.cpp`."""
    threads, least = torch.get_num_threads(), float("inf")
    for _ in range(3):
        began = time.perf_counter()
        _function(f"peak_{_TYPES[dtype]}")(repeats, threads)
        least = min(least, time.perf_counter() - began)
    return repeats * threads * 24 * (64 if dtype == torch.bfloat16 else 32) / least


@contextmanager
def torch_alone() -> Iterator[None]:
    """Inside, torch computes everything: for comparisons and tests. Not thread-safe."""
    global _wanted
    before, _wanted = _wanted, False
    try:
        yield
    finally:
        _wanted = before


def build() -> Path:
    """Compile, unless this version is there already, and return the shared library.

    Raises:
        RuntimeError: no compiler, or it fails.
    """
    for folder in _folders():
        if (path := folder / _file_name()).exists():
            return path
    named = os.environ.get("CXX")
    compiler = shutil.which(named) if named else shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise RuntimeError("no C++ compiler (g++, c++ or the one in CXX)")
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                made = Path(work) / _file_name()
                # Linked without OpenMP: its symbols are those of the runtime that torch has loaded.
                command = [compiler, *FLAGS, *TARGET, "-c", *(str(_HERE / source) for source in SOURCES)]
                for step in (command, [compiler, "-shared", "-o", made.name, *_objects()]):
                    done = subprocess.run(step, cwd=work, capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise RuntimeError(f"{compiler} failed:\n{done.stderr}")
                return made.replace(folder / made.name)
        except OSError:  # no permission, read-only, full
            continue
    raise RuntimeError("no folder to keep the compiled kernels in can be written")


def _objects() -> list[str]:
    return [str(Path(source).with_suffix(".o")) for source in SOURCES]


def _folders() -> list[Path]:
    cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # as it is where nobody has a home
    return [_HERE / "__pycache__", *([Path(cache_home) / "recsys-moe"] if os.path.isabs(cache_home) else [])]


@cache
def _file_name() -> str:
    text = b"".join((_HERE / name).read_bytes() for name in (*SOURCES, "lanes.h"))
    return f"cpu-{hashlib.sha256(text + repr((FLAGS, TARGET)).encode()).hexdigest()[:16]}.so"


@cache
def _library() -> ctypes.CDLL | None:
    """Never compiles: a request must not wait for that."""
    able = torch.cpu.get_capabilities()
    if sys.platform != "linux" or not all(able.get(name) for name in NEEDED):
        return None
    for folder in _folders():
        try:
            return ctypes.CDLL(str(folder / _file_name()))
        except OSError:
            continue
    return None


@cache
def _function(name: str) -> ctypes._NamedFuncPointer:
    pointers, numbers, threads = {
        "route": (8, 4, 0),
        "rank": (3, 2, 0),
        "slot": (4, 3, 0),
        "experts": (6, 6, 1),
        "combine": (4, 4, 1),
        "peak": (0, 1, 1),
    }[name.partition("_")[0]]
    function = getattr(_library(), name)
    function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * numbers + [ctypes.c_int] * threads
    function.restype = None
    return function


def _threads(flops: int) -> int:
    return max(1, min(torch.get_num_threads(), flops // LEAST_FLOPS_PER_THREAD))


if __name__ == "__main__":
    try:
        made = build()
        print(made if _library() else f"{made} does not load on this machine: torch serves")  # noqa: T201
    except RuntimeError as error:
        sys.exit(f"torch serves, at about half the speed: {error}")
