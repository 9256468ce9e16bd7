"""A handful of children as one thing: restarted, ended in order, and never two crews in one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import UnavailableError
from recsys.stack.processes import Processes, python

SLEEP = python("-c", "import time; print('up', flush=True); time.sleep(60)")


def test_children_write_logs_and_end_together(tmp_path: Path, eventually: Any) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("a", SLEEP)
        eventually(lambda: "up" in processes.log_tail("a"), what="the child's line")
        assert processes.alive("a")
    assert child.running is not None
    assert child.running.returncode == -signal.SIGTERM


def test_a_dead_child_comes_back(tmp_path: Path, eventually: Any) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("a", SLEEP)
        assert child.running is not None
        first = child.running.pid
        os.kill(first, signal.SIGKILL)
        child.running.wait()

        def revived() -> bool:
            processes._revive(child)
            return child.running is not None and child.running.pid != first

        eventually(revived, what="the child revived")
        assert processes.alive("a")


def test_a_stubborn_child_is_killed(tmp_path: Path, eventually: Any) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with Processes(tmp_path) as processes:
        child = processes.start("a", python("-c", code))
        eventually(lambda: "up" in processes.log_tail("a"), what="the child's line")
        processes.stop(grace_s=0.2)
    assert child.running is not None
    assert child.running.returncode == -signal.SIGKILL


def test_orphans_of_a_killed_crew_keep_the_folder_and_are_named(tmp_path: Path, eventually: Any) -> None:
    code = (
        "import sys, time, pathlib; from recsys.stack.processes import Processes\n"
        "with Processes(pathlib.Path(sys.argv[1])) as p:\n"
        "    child = p.start('a', ['sleep', '60']); print(child.running.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        parent.kill()
    with pytest.raises(UnavailableError, match=f"kill {orphan}"), Processes(tmp_path):
        pass
    os.kill(orphan, signal.SIGKILL)

    def free() -> bool:
        try:
            with Processes(tmp_path):
                return True
        except UnavailableError:
            return False

    eventually(free, what="the folder free again")
