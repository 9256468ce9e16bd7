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
from locust.runners import MasterRunner, WorkerRunner

from loadtest.arrivals import WHOLE, Part
from loadtest.distributed import BEGIN, COUNTED, REPORT_EVERY_S, Gathering
from loadtest.faults import SHAPES as FAULTS
from loadtest.faults import ExpertFault
from loadtest.open_loop import OpenLoop
from loadtest.options import COMMAND_LINE_ONLY, LoadTestError, Options, add_arguments, check_target
from loadtest.progress import show_progress
from loadtest.shapes import ENDLESS, phases_of, seconds_by_name
from loadtest.tastes import load_tastes
from loadtest.thresholds import judge

logger = logging.getLogger("loadtest")
EXIT_FAILED, EXIT_USAGE = 1, 2

_run: OpenLoop | Gathering | None = None
_from_command_line: dict[str, Any] = {}


class Arrivals(User):
    """The source of requests, one per process that sends."""

    @task
    def offer(self) -> None:
        if isinstance(_run, OpenLoop) and _run.started_s is None:
            _run.run()
        gevent.sleep(0.1)


class OfferedRate(LoadTestShape):
    """Keeps the sources alive until the last answer, or the time-out after the last request."""

    _period = 0

    def reset_time(self) -> None:
        """Locust begins a run."""
        super().reset_time()
        if self.runner is not None:
            _begin(self.runner.environment)

    def tick(self) -> tuple[int, float] | None:
        """One source per process while the run goes on, None when it is over."""
        run = _run
        if run is None or run.ended_s is not None or _is_over(run):
            return None
        if run.options.shape in ENDLESS:
            self._forget_old(run)
        sources = 1
        if isinstance(run, Gathering):
            run.follow_phase()
            sources = run.workers
        return sources, float(sources)

    def _forget_old(self, run: OpenLoop | Gathering) -> None:
        """Locust's tables grow by the second; a run without end starts them afresh with each period."""
        period = int(run.elapsed_s / run.options.crowd_every)
        if period != self._period and self.runner is not None:
            self._period = period
            self.runner.stats.reset_all()


def _is_over(run: OpenLoop | Gathering) -> bool:
    """Everything is sent and answered, or there was time enough for it."""
    if run.options.shape in ENDLESS:
        return False
    if isinstance(run, Gathering):
        return run.over
    over_s = run.elapsed_s - run.options.duration
    # an answer and the events that follow it may each take a time-out
    return (over_s >= 0 and run.all_sent and run.outstanding == 0) or over_s > 2 * run.options.timeout


def _arguments(environment: Environment) -> Namespace:
    parsed = environment.parsed_options
    assert isinstance(parsed, Namespace), "Locust was started without its command line"
    return parsed


def _begin(environment: Environment) -> None:
    global _run
    if isinstance(_run, Gathering) and _run.ended_s is None:
        return  # a master is told twice
    _run = None
    try:
        _run = _gathering(environment) if isinstance(environment.runner, MasterRunner) else _alone(environment)
    except LoadTestError as error:
        logger.error("%s", error)


def _options(environment: Environment) -> tuple[Options, str, ExpertFault | None]:
    """What the run is told: options, target and the fault of the sick expert."""
    options = Options.from_namespace(Namespace(**(vars(_arguments(environment)) | _from_command_line)))
    target = check_target(environment.host, allow_remote=options.allow_remote)
    return options, target, ExpertFault(target, options) if options.shape in FAULTS else None


def _alone(environment: Environment) -> OpenLoop:
    options, target, fault = _options(environment)
    return _open_loop(environment, options, target, WHOLE, fault)


def _gathering(environment: Environment) -> Gathering:
    options, target, fault = _options(environment)
    runner = environment.runner
    assert isinstance(runner, MasterRunner)
    return Gathering(options, target, [client.id for client in runner.clients.ready], runner.send_message, fault)


def _open_loop(
    environment: Environment, options: Options, target: str, part: Part, fault: ExpertFault | None = None
) -> OpenLoop:
    tastes = None if options.shape == "replay" else load_tastes(Path(options.tastes))
    return OpenLoop(target, options, tastes, environment.events.request.fire, part=part, fault=fault)


def _on_begin(environment: Environment, msg: Any) -> None:
    """The master deals out a part: files and permissions are those of this worker's own command line."""
    global _run
    told = msg.data
    try:
        options = Options(**(told["options"] | _from_command_line))
        target = check_target(told["target"], allow_remote=options.allow_remote)
        _run = _open_loop(environment, options, target, Part(told["index"], told["count"]))
    except LoadTestError as error:
        logger.error("%s", error)
        _report(environment, None, error=str(error))
        return
    _run.begin_at(told["start_at"])
    gevent.spawn(_report_until_over, environment, _run)


def _report_until_over(environment: Environment, run: OpenLoop) -> None:
    while run.ended_s is None:
        if _is_over(run):
            run.stop()
        _report(environment, run)
        gevent.sleep(REPORT_EVERY_S)


def _report(environment: Environment, run: OpenLoop | None, *, error: str = "") -> None:
    """Everything counted since the start, to the master."""
    assert environment.runner is not None
    report: dict[str, Any] = {"error": error, "category": None, "summary": None}
    if run is not None:
        report |= {"category": run.category, "outstanding": run.outstanding, "summary": run.summary.packed()}
        report |= {"ended": run.ended_s is not None, "all_sent": run.all_sent}
    environment.runner.send_message(COUNTED, report)


def _on_counted(environment: Environment, msg: Any) -> None:
    if isinstance(_run, Gathering):
        _run.counted(msg.node_id, msg.data)


@events.init_command_line_parser.add_listener
def _add_arguments(parser: Any) -> None:
    add_arguments(parser, web_form=True)


@events.init.add_listener
def _check_before_start(environment: Environment, **_: Any) -> None:
    runner, headless = environment.runner, _arguments(environment).headless
    # the web UI takes any argument's name from whoever can reach it
    _from_command_line.update({name: getattr(_arguments(environment), name) for name in COMMAND_LINE_ONLY})
    if isinstance(runner, WorkerRunner):
        runner.register_message(BEGIN, _on_begin)
        return
    try:
        if isinstance(runner, MasterRunner):
            runner.register_message(COUNTED, _on_counted)
        if headless:
            options, target, fault = _options(environment)
            if fault is not None:
                fault.check()
            if not isinstance(runner, MasterRunner):  # a master leaves files to its workers
                _open_loop(environment, options, target, WHOLE)
    except LoadTestError as error:
        sys.stderr.write(f"loadtest: {error}\n")
        sys.exit(EXIT_USAGE)
    if headless:
        # Locust installs its own handler only after a headless shape has ended
        gevent.signal_handler(signal.SIGTERM, _terminate, runner)
        if sys.stderr.isatty():
            gevent.spawn(show_progress, lambda: _run)


def _terminate(runner: Any) -> None:
    if _run is not None:
        _run.stop()  # before Locust, which takes a while to stop
    runner.quit()


@events.test_stopping.add_listener
def _stop(environment: Environment, **_: Any) -> None:
    run = _run
    if run is None:
        return
    going_on = run.ended_s is None
    run.stop()
    if going_on and isinstance(run, OpenLoop) and isinstance(environment.runner, WorkerRunner):
        _report(environment, run)


@events.quitting.add_listener
def _conclude(environment: Environment, **_: Any) -> None:
    """Write the summary, judge the thresholds and set the exit code."""
    run = _run
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0
        return
    if run is None or (isinstance(run, Gathering) and run.failed):
        environment.process_exit_code = EXIT_USAGE if _arguments(environment).headless else 0
        return
    run.stop()
    options, summary = run.options, run.summary
    verdicts = [] if options.shape in ENDLESS else judge(summary, options)
    failed = [verdict for verdict in verdicts if not verdict.ok]
    for verdict in failed:
        logger.error("failed: %s", verdict)
    lost = run.lost if isinstance(run, Gathering) and run.elapsed_s >= options.duration else 0
    if lost:
        logger.error("failed: %d of %d workers did not come to an end", lost, run.workers)
    environment.process_exit_code = EXIT_FAILED if failed or lost else 0
    if options.summary_file:
        path = Path(options.summary_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "shape": options.shape,
            "host": environment.host,
            "seed": options.seed,
            "category": run.category,
            "workers": run.workers,
            "ended_at": int(time.time() * 1e3),
            "passed": not failed and not lost,
            "thresholds": [verdict.to_json() for verdict in verdicts],
            **summary.to_json(seconds_by_name(phases_of(options), run.elapsed_s)),
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
