"""Work in sections whose rows come from a child process: a kernel that hangs or crashes costs its section, no more.

What a process has done to a device cannot be undone in it: after a wrong address every call fails, and a kernel that
never ends cannot be stopped. So the child is killed, and another one goes on with the next section.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

Section = TypeVar("Section")
Row = TypeVar("Row")


def watched(
    work: Callable[[Section], Iterable[Row]], sections: Sequence[Section], *, silent_s: float
) -> Iterator[tuple[Section, Row | str]]:
    """The rows of each section as soon as they are known; the last of one that was cut off is why, a text.

    Args:
        work: importable by name, as what it is made of; runs in the child.
        sections: in the order in which they are done.
        silent_s: longest time without a row or an end of a section.
    """
    left, context = list(sections), multiprocessing.get_context("spawn")
    while left:
        rows, sender = context.Pipe(duplex=False)
        child = context.Process(target=_send, args=(work, left, sender))
        child.start()
        sender.close()
        try:
            while left:
                if not rows.poll(silent_s):
                    yield left.pop(0), f"nothing came for {silent_s:g} s"
                    break
                try:
                    row = rows.recv()
                except EOFError:
                    child.join()
                    yield left.pop(0), f"its process ended with {child.exitcode}"
                    break
                if row is None:
                    left.pop(0)
                else:
                    yield left[0], row[0]
        finally:
            _kill(child)


def _send(work: Callable[[Section], Iterable[Row]], sections: Sequence[Section], sender: Connection) -> None:
    os.setsid()  # compilers that the work starts end with it
    for section in sections:
        for row in work(section):
            sender.send((row,))
        sender.send(None)


def _kill(child: multiprocessing.context.SpawnProcess) -> None:
    assert child.pid is not None
    with contextlib.suppress(ProcessLookupError):  # it ended, or had no group yet
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()
