"""The load test as Locust sees it: `locust -f loadtest/locustfile.py`, or headless by `python -m loadtest`.

One Locust user is the source of all arrivals, because in an open model the number of users in flight is a result and
not a setting. Everything about a run is in its options; Locust brings the web UI, tables, csv files and signals.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.runners import LocalRunner

from loadtest.open_loop import OpenLoop
from loadtest.options import COMMAND_LINE_ONLY, LoadTestError, Options, add_arguments, check_target
from loadtest.progress import show_progress
from loadtest.shapes import ENDLESS, phases_of, seconds_by_name
from loadtest.tastes import load_tastes
from loadtest.thresholds import judge

logger = logging.getLogger("loadtest")
EXIT_FAILED, EXIT_USAGE = 1, 2

_run: OpenLoop | None = None
_from_command_line: dict[str, Any] = {}


class Arrivals(User):
    """The one source of requests."""

    @task
    def offer(self) -> None:
        if _run is not None and _run.started_s is None:
            _run.run()
        gevent.sleep(1)


class OfferedRate(LoadTestShape):
    """Keeps the source alive until the last answer, or the time-out after the last request."""

    _period = 0

    def reset_time(self) -> None:
        """Locust begins a run."""
        super().reset_time()
        if self.runner is not None:
            _begin(self.runner.environment)

    def tick(self) -> tuple[int, float] | None:
        """`(1, 1.0)` while the run goes on, None when it is over."""
        run = _run
        if run is None or run.ended_s is not None:
            return None
        if run.options.shape in ENDLESS:
            self._forget_old(run)
            return 1, 1.0
        over_s = run.elapsed_s - run.options.duration
        drained = run.all_sent and run.outstanding == 0
        # an answer and the events that follow it may each take a time-out
        return None if (over_s >= 0 and drained) or over_s > 2 * run.options.timeout else (1, 1.0)

    def _forget_old(self, run: OpenLoop) -> None:
        """Locust's tables grow by the second; a run without end starts them afresh with each period."""
        period = int(run.elapsed_s / run.options.crowd_every)
        if period != self._period and self.runner is not None:
            self._period = period
            self.runner.stats.reset_all()


def _arguments(environment: Environment) -> Namespace:
    parsed = environment.parsed_options
    assert isinstance(parsed, Namespace), "Locust was started without its command line"
    return parsed


def _begin(environment: Environment) -> None:
    global _run
    _run = None
    try:
        _run = _prepared(environment)
    except LoadTestError as error:
        logger.error("%s", error)


def _prepared(environment: Environment) -> OpenLoop:
    options = Options.from_namespace(Namespace(**(vars(_arguments(environment)) | _from_command_line)))
    target = check_target(environment.host, allow_remote=options.allow_remote)
    return OpenLoop(target, options, load_tastes(Path(options.tastes)), environment.events.request.fire)


@events.init_command_line_parser.add_listener
def _add_arguments(parser: Any) -> None:
    add_arguments(parser, web_form=True)


@events.init.add_listener
def _check_before_start(environment: Environment, **_: Any) -> None:
    headless = _arguments(environment).headless
    # the web UI takes any argument's name from whoever can reach it
    _from_command_line.update({name: getattr(_arguments(environment), name) for name in COMMAND_LINE_ONLY})
    try:
        if not isinstance(environment.runner, LocalRunner):
            raise LoadTestError("--master, --worker, --processes: one process makes the whole load")
        if headless:
            _prepared(environment)
    except LoadTestError as error:
        sys.stderr.write(f"loadtest: {error}\n")
        sys.exit(EXIT_USAGE)
    if headless:
        # Locust installs its own handler only after a headless shape has ended
        gevent.signal_handler(signal.SIGTERM, _terminate, environment.runner)
        if sys.stderr.isatty():
            gevent.spawn(show_progress, lambda: _run)


def _terminate(runner: LocalRunner) -> None:
    if _run is not None:
        _run.stop()  # before Locust, which takes a while to stop
    runner.quit()


@events.test_stopping.add_listener
def _stop(environment: Environment, **_: Any) -> None:
    if _run is not None:
        _run.stop()


@events.quitting.add_listener
def _conclude(environment: Environment, **_: Any) -> None:
    """Write the summary, judge the thresholds and set the exit code."""
    run = _run
    if run is None:
        environment.process_exit_code = EXIT_USAGE if _arguments(environment).headless else 0
        return
    run.stop()
    options = run.options
    verdicts = [] if options.shape in ENDLESS else judge(run.summary, options)
    failed = [verdict for verdict in verdicts if not verdict.ok]
    for verdict in failed:
        logger.error("failed: %s", verdict)
    environment.process_exit_code = EXIT_FAILED if failed else 0
    if options.summary_file:
        path = Path(options.summary_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "shape": options.shape,
            "host": environment.host,
            "seed": options.seed,
            "category": run.audience.category,
            "ended_at": int(time.time() * 1e3),
            "passed": not failed,
            "thresholds": [verdict.to_json() for verdict in verdicts],
            **run.summary.to_json(seconds_by_name(phases_of(options), run.elapsed_s)),
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
