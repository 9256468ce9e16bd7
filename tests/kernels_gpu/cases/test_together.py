"""Programs that wait for each other: in the interpreter as processes over shared memory, really at once.

The interpreter itself runs one program after the other, so that a barrier that holds nobody back, or a number read
before it is complete, would show on a GPU only.
"""

from __future__ import annotations

import inspect
import os
import signal
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from triton.runtime import interpreter

from kernels.gpu import tiles
from kernels.gpu.assign import assign
from kernels.gpu.dot import INTERPRETED
from kernels.gpu.prices import solve

PROGRAMS = 3
pytestmark = pytest.mark.skipif(not INTERPRETED, reason="a GPU runs them at once anyway")


def _fork_programs(self: Any, *args: Any, **kwargs: Any) -> None:
    """In place of the interpreter's loop over the grid: one process per program, arguments in shared memory."""
    kwargs = {name: value for name, value in kwargs.items() if name in inspect.getfullargspec(self.fn).args}
    for arg in args:
        if isinstance(arg, torch.Tensor):
            arg.share_memory_()
    scope = interpreter._patch_lang(self.fn)
    bound = inspect.getcallargs(self.fn, *args, **kwargs)
    bound = {name: arg if name in self.constexprs else interpreter._implicit_cvt(arg) for name, arg in bound.items()}
    interpreter.interpreter_builder.set_grid_dim(*self.grid, *(1,) * (3 - len(self.grid)))
    running = set()
    for program in range(self.grid[0]):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                interpreter.interpreter_builder.set_grid_idx(program, 0, 0)
                self.fn(**bound)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        running.add(pid)
    scope.restore()
    until, failed = time.monotonic() + 240, False
    while running and not failed and time.monotonic() < until:
        pid, status = os.waitpid(-1, os.WNOHANG)
        running.discard(pid)
        failed = failed or status != 0
        time.sleep(0 if pid else 0.002)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not running, "a program failed" if failed else "programs wait for ever"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Launches with several programs that really run at once."""
    with monkeypatch.context() as patch:
        patch.setattr(tiles, "programs_together", lambda blocks, device: min(blocks, PROGRAMS))
        patch.setattr(interpreter.GridExecutor, "__call__", _fork_programs)
        yield


def test_several_programs_decide_as_one(request: pytest.FixtureRequest) -> None:
    (tokens, experts, k), draws = (150, 20, 2), torch.Generator().manual_seed(0)
    logits_TE = torch.randn(tokens, experts, generator=draws) - 0.3 * torch.arange(experts)
    logits_TE[: tokens // 3] = logits_TE[0]
    scores_TE, capacity_E = logits_TE.softmax(1), torch.full((experts,), tokens * k // experts)

    def decide() -> tuple[torch.Tensor, ...]:
        prices = solve(scores_TE, capacity_E, k, sweeps=3)
        return *prices, *assign(scores_TE, capacity_E, k, prices)

    alone = decide()
    request.getfixturevalue("at_once")
    for one, several in zip(alone, decide(), strict=True):
        assert torch.allclose(one, several, rtol=1e-12, atol=0)  # float64 sums are split otherwise
