"""One load made by several processes: each worker sends its part of the arrivals, the master adds up what they count.

Locust brings the processes together and carries the messages; rates and seeds are dealt out here, so that the parts
are one load at the rate asked for and not several of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from loadtest.faults import ExpertFault
from loadtest.options import Options
from loadtest.shapes import phase_at, phases_of
from loadtest.summary import Summary

BEGIN, COUNTED = "loadtest_begin", "loadtest_counted"
REPORT_EVERY_S = 1.0
START_IN_S = 0.5  # time for the message to reach all workers, which then begin together

logger = logging.getLogger(__name__)


class Send(Protocol):
    """`MasterRunner.send_message`."""

    def __call__(self, msg_type: str, data: dict[str, Any], client_id: str) -> None: ...


class Gathering:
    """A run as the master sees it; has the face of `OpenLoop` as far as the end of a run needs it.

    Args:
        options: of the whole load.
        target: the service.
        workers: ids of the workers.
        send: how a message reaches one of them.
        fault: of the expert that the run makes ill.
    """

    def __init__(
        self, options: Options, target: str, workers: Sequence[str], send: Send, fault: ExpertFault | None = None
    ) -> None:
        self.options = options
        self.workers = len(workers)
        self._fault = fault
        self.category: str | None = None
        self.failed = ""
        self.ended_s: float | None = None
        self._started_s = time.perf_counter() + START_IN_S
        start_at = time.time() + START_IN_S
        self._reports: dict[str, dict[str, Any]] = {worker: {} for worker in workers}
        for index, worker in enumerate(workers):
            part = {"index": index, "count": len(workers), "target": target, "start_at": start_at}
            send(BEGIN, {"options": asdict(options), **part}, worker)

    def counted(self, worker: str, report: dict[str, Any]) -> None:
        """A report of a worker: everything that it counted since the start."""
        if worker not in self._reports:
            return
        self._reports[worker] = report
        self.category = self.category or report["category"]
        if report["error"] and not self.failed:
            self.failed = report["error"]
            logger.error("%s", self.failed)

    @property
    def summary(self) -> Summary:
        """All counts added up."""
        whole = Summary()
        for report in self._reports.values():
            if report:
                whole.add(report["summary"])
        return whole

    @property
    def outstanding(self) -> int:
        """Requests in flight, as last reported."""
        return sum(report.get("outstanding", 0) for report in self._reports.values())

    @property
    def over(self) -> bool:
        """Nothing more is to be expected: all workers came to an end, one cannot begin, or the time is up."""
        patience_s = 2 * self.options.timeout + 2 * REPORT_EVERY_S
        return bool(self.failed) or self.lost == 0 or self.elapsed_s > self.options.duration + patience_s

    @property
    def lost(self) -> int:
        """Workers that never said that they came to an end."""
        return sum(not report.get("ended") for report in self._reports.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start; stands still after `stop`."""
        return max(0.0, (self.ended_s or time.perf_counter()) - self._started_s)

    def follow_phase(self) -> None:
        """Make the expert as ill as the present phase wants it."""
        if self._fault is not None and (phase := phase_at(phases_of(self.options), self.elapsed_s)):
            self._fault.set(phase.injected)

    def stop(self) -> None:
        """The run is over; workers are stopped by Locust and send a last report."""
        if self.ended_s is None:
            self.ended_s = time.perf_counter()
            if self._fault is not None:
                self._fault.set(None)
