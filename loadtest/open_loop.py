"""Sends every request when it is due, whatever has become of the ones before, and counts what comes of it.

Latency runs from the time a request was due, not from when it was sent: a generator that falls behind, or a service
that stalls, cannot hide the wait (coordinated omission). Needs gevent's patched sockets: import `locust` first.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Any, Protocol, TypeVar

import gevent
import msgspec
from gevent.pool import Pool
from geventhttpclient import HTTPClient

from loadtest.arrivals import WHOLE, Arrival, Part, arrivals_of
from loadtest.audience import Audience, Visit
from loadtest.behaviour import Reaction, react
from loadtest.contract import EventsTaken, Recommendations
from loadtest.faults import ExpertFault
from loadtest.options import Options
from loadtest.shapes import Phase
from loadtest.summary import Counts, Outcome, Summary, classify
from loadtest.tastes import Tastes, User

RECOMMENDATIONS = "/v1/recommendations"
EVENTS = "/v1/events"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}

logger = logging.getLogger(__name__)
A = TypeVar("A")


class Report(Protocol):
    """Where each finished request goes besides the summary: Locust's `events.request.fire`."""

    def __call__(
        self,
        *,
        request_type: str,
        name: str,
        response_time: float | None,
        response_length: int,
        exception: Exception | None,
        context: dict[str, Any],
        start_time: float,
    ) -> None: ...


class RequestError(Exception):
    """A request that ended neither in an answer nor in a refusal; the text is the same for the same kind."""


@dataclass(frozen=True, slots=True)
class _Reply:
    outcome: Outcome
    body: bytes = b""
    retry_after: bool = False
    kind: str = ""


class OpenLoop:
    """One run: arrivals, requests in flight and their counts.

    Args:
        base_url: `http://host:port` of the service.
        options: of the run.
        tastes: of its users; None where real events are replayed.
        report: called once per finished request.
        part: which part of the load this process makes.
        fault: of the expert that the run makes ill.

    Raises:
        LoadTestError: a category, item or file that is not there.
    """

    def __init__(
        self,
        base_url: str,
        options: Options,
        tastes: Tastes | None,
        report: Report,
        *,
        part: Part = WHOLE,
        fault: ExpertFault | None = None,
    ) -> None:
        self.options = options
        self.summary = Summary()
        source = f"{options.seed}:audience" + (f":{part.index}" if part.index else "")
        self.audience = Audience(tastes, options, Random(source)) if tastes else None
        self.started_s: float | None = None
        self.ended_s: float | None = None
        self.all_sent = False
        self.workers = 1
        self._wait_until = 0.0
        self._fault = fault
        self._arrivals = arrivals_of(options, part)
        self._next = next(self._arrivals, None)
        self._in_flight = Pool(options.outstanding)
        self._report = report
        self._run_id = uuid.uuid4().hex[:8]  # event ids of another run must not look like resends
        self._client = HTTPClient.from_url(
            base_url,
            concurrency=options.outstanding,
            connection_timeout=options.timeout,
            network_timeout=options.timeout,
            headers=HEADERS,
        )

    @property
    def outstanding(self) -> int:
        """Requests in flight."""
        return len(self._in_flight)

    @property
    def category(self) -> str | None:
        """What the present or last crowd wants."""
        return self.audience.wanted if self.audience else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start; stands still after `stop`."""
        if self.started_s is None:
            return 0.0
        return (self.ended_s or time.perf_counter()) - self.started_s

    def begin_at(self, unix_s: float) -> None:
        """Let `run` wait until then, for at most two seconds: parts of one load begin together."""
        self._wait_until = min(unix_s, time.time() + 2.0)

    def run(self) -> None:
        """Offer all arrivals; returns when the last is on its way."""
        self.started_s = time.perf_counter() + max(0.0, self._wait_until - time.time())
        phase: Phase | None = None
        while (arrival := self._next) is not None:
            gevent.sleep(max(self.started_s + arrival.at_s - time.perf_counter(), 0.0))
            if self.ended_s is not None:
                return
            self._next = next(self._arrivals, None)
            if arrival.event is not None:
                visit = Visit(User(arrival.event.user_id, 1.0, {}))
            else:
                assert self.audience is not None, "only real events come without tastes"
                visit = self.audience.visit(arrival.phase)
            if arrival.phase is not phase:
                phase = arrival.phase
                self._announce(phase)
            self._offer(arrival, visit)
        self.all_sent = True

    def stop(self) -> None:
        """End the run: what was due and did not go out is counted, what is in flight is given up."""
        if self.started_s is None or self.ended_s is not None:
            return
        self.ended_s = time.perf_counter()
        first, self._next = self._next, None
        for arrival in chain([first] if first else [], self._arrivals):
            if arrival.at_s > self.elapsed_s:
                break
            counts = self.summary.of(arrival.phase.name)
            counts.offered += 1
            counts.not_sent += 1
        self._arrivals.close()
        self._in_flight.kill()
        self._client.close()
        if self._fault is not None:
            self._fault.set(None)

    def _announce(self, phase: Phase) -> None:
        crowd = f", {phase.crowd_share:.0%} of it on {self.category!r}" if phase.crowd_share else ""
        logger.info("%s: %g requests/s for %g s%s", phase.name, phase.rate_per_s, phase.seconds, crowd)
        if self._fault is not None:
            gevent.spawn(self._fault.set, phase.injected)

    def _offer(self, arrival: Arrival, visit: Visit) -> None:
        counts = self.summary.of(arrival.phase.name)
        counts.offered += 1
        if self._in_flight.free_count() <= 0:
            counts.not_sent += 1
            self._tell("not sent", RECOMMENDATIONS, None, 0, RequestError("limit of outstanding requests reached"))
            return
        self._in_flight.spawn(self._serve, arrival, visit, counts)

    def _serve(self, arrival: Arrival, visit: Visit, counts: Counts) -> None:
        assert self.started_s is not None
        due_s = self.started_s + arrival.at_s
        answer = self._ask(RECOMMENDATIONS, visit.body(self.options.k), due_s, counts, Recommendations)
        if answer is not None:
            counts.record_step(answer.degraded.step, fallback=answer.fallback is not None)
        if reactions := self._reactions(answer, arrival, visit):
            self._send_events(reactions, answer.request_id if answer else None, visit, arrival)

    def _reactions(self, answer: Recommendations | None, arrival: Arrival, visit: Visit) -> list[Reaction]:
        """What the visitor does next: what really happened, or what the list makes of the visitor's taste."""
        if arrival.event is not None:
            return [(arrival.event.kind, arrival.event.item_id)]
        if answer is None or self.audience is None:
            return []
        shown = [(item.item_id, item.categories) for item in answer.items]
        return react(self.audience.affinities(visit, shown), Random(f"{self.options.seed}:{arrival.number}"))

    def _send_events(self, reactions: list[Reaction], request_id: str | None, visit: Visit, arrival: Arrival) -> None:
        events = [
            {
                "type": "interaction",
                "event_id": f"{self._run_id}-{arrival.number}-{n}",
                "user_id": visit.user.id,
                "item_id": item_id,
                "kind": kind,
            }
            | ({"request_id": request_id} if request_id else {})
            for n, (kind, item_id) in enumerate(reactions)
        ]
        counts = self.summary.events_of(arrival.phase.name)
        counts.offered += 1
        taken = self._ask(EVENTS, {"events": events}, time.perf_counter(), counts, EventsTaken)
        if taken is not None:
            self.summary.interactions.update(kind for kind, _ in reactions)
            self.summary.rejected += len(taken.rejected)

    def _ask(self, path: str, body: dict[str, Any], due_s: float, counts: Counts, type_: type[A]) -> A | None:
        """Send one request, count and report it; the answer if it is a good one."""
        sent_s = time.perf_counter()
        counts.record_sent((sent_s - due_s) * 1e3)
        reply = self._post(path, msgspec.json.encode(body))
        now_s = time.perf_counter()
        outcome, kind, answer = reply.outcome, reply.kind, None
        if outcome == "ok":
            try:
                answer = msgspec.json.decode(reply.body, type=type_)
            except (msgspec.DecodeError, UnicodeDecodeError):
                outcome, kind = "error", "answer outside the contract"
        elif outcome == "shed" and not reply.retry_after:
            counts.shed_without_retry_after += 1
        response_ms = (now_s - due_s) * 1e3
        counts.record(outcome, response_ms=response_ms, service_ms=(now_s - sent_s) * 1e3, kind=kind)
        failure = RequestError(kind) if outcome == "error" else None
        self._tell("POST shed" if outcome == "shed" else "POST", path, response_ms, len(reply.body), failure)
        return answer

    def _post(self, path: str, body: bytes) -> _Reply:
        try:
            with gevent.Timeout(self.options.timeout):
                response = self._client.post(path, body=body)
                content = bytes(response.read())
        except (gevent.Timeout, TimeoutError):
            return _Reply("error", kind="timeout")
        except Exception as error:  # a broken connection is a result to count, of whatever class
            return _Reply("error", kind=type(error).__name__)
        status = int(response.status_code)
        return _Reply(classify(status), content, response.get("retry-after") is not None, f"status {status}")

    def _tell(self, method: str, path: str, ms: float | None, length: int, exception: Exception | None) -> None:
        self._report(
            request_type=method,
            name=path,
            response_time=ms,
            response_length=length,
            exception=exception,
            context={},
            start_time=time.time() - (ms or 0.0) / 1e3,
        )
