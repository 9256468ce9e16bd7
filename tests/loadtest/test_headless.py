"""Whole runs of `python -m loadtest` against a stand-in for the service."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from loadtest.arrivals import Part, arrivals_of
from loadtest.options import Options
from recsys.api.schemas import EventsBody, InteractionBody, RecommendationRequest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]


class Fake(Protocol):
    url: str
    status: int
    body: bytes | None
    stall_after: int | None

    def of(self, path: str) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Finished:
    code: int
    output: str
    summary: dict[str, Any]


Run = Callable[..., Finished]


def command(host: str, tastes: Path, summary: Path, *arguments: str) -> list[str]:
    files = ["--tastes", str(tastes), "--json", str(summary)]
    # the machine of the tests may be too busy to send on time
    return [sys.executable, "-m", "loadtest", "--host", host, *files, "--min-achieved", "0", *arguments]


@pytest.fixture
def run(fake_api: Fake, tastes_file: Path, tmp_path: Path) -> Run:
    def start(*arguments: str, host: str = fake_api.url, tastes: Path = tastes_file) -> Finished:
        summary = tmp_path / "out" / "summary.json"
        done = subprocess.run(
            command(host, tastes, summary, *arguments),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
        return Finished(done.returncode, done.stdout, json.loads(summary.read_text()) if summary.exists() else {})

    return start


def due(**options: Any) -> int:
    """How many arrivals the seed gives, whatever the service does."""
    return sum(1 for _ in arrivals_of(Options(**options)))


def test_a_flash_crowd_from_end_to_end(fake_api: Fake, run: Run, tmp_path: Path) -> None:
    arguments = ["--shape", "flash_crowd", "--duration", "3", "--crowd-seconds", "1", "--rate", "20"]
    done = run(*arguments, "--crowd-share", "0.7", "--csv", str(tmp_path / "tables"))
    assert done.code == 0, done.output
    assert done.summary["passed"] is True
    phases = done.summary["phases"]
    assert list(phases) == ["calm", "crowd", "after"]
    assert sum(p["offered"] for p in phases.values()) == due(shape="flash_crowd", duration=3, crowd_seconds=1, rate=20)
    for phase in phases.values():
        assert phase["ok"] == phase["sent"] == phase["offered"] > 0
        assert 0 < phase["service_ms"]["p50"] <= phase["response_ms"]["p99"]
        assert phase["steps"] == {"calm": phase["ok"]}
    assert phases["crowd"]["offered_per_s"] > 5 * phases["calm"]["offered_per_s"]
    assert "/v1/recommendations" in (tmp_path / "tables_stats.csv").read_text()

    asked = fake_api.of("/v1/recommendations")
    assert len(asked) == sum(p["sent"] for p in phases.values())
    requests = [RecommendationRequest.model_validate(body) for body in asked]
    crowd = [r for r in requests if r.filters.categories_any]
    assert {tuple(r.filters.categories_any) for r in crowd} == {(done.summary["category"],)}
    assert len(crowd) == pytest.approx(0.7 * phases["crowd"]["offered"], rel=0.2)


def test_events_keep_the_contract_and_name_the_answer_they_follow(fake_api: Fake, run: Run) -> None:
    done = run("--shape", "steady", "--duration", "1", "--rate", "60")
    assert done.code == 0, done.output
    batches = [EventsBody.model_validate(body) for body in fake_api.of("/v1/events")]
    events = [InteractionBody.model_validate(event) for batch in batches for event in batch.events]
    assert events
    assert len({event.event_id for event in events}) == len(events)
    assert all(event.request_id and event.request_id.startswith("r") for event in events)
    assert sum(done.summary["interactions"].values()) == len(events)
    assert done.summary["events"]["calm"]["ok"] == len(batches)


def test_a_service_that_stalls_is_asked_no_less(fake_api: Fake, run: Run) -> None:
    fake_api.stall_after = 10
    done = run("--duration", "0.9", "--rate", "80", "--timeout", "0.7")
    calm = done.summary["phases"]["calm"]
    assert calm["offered"] == calm["sent"] == due(duration=0.9, rate=80)
    assert calm["ok"] <= 10
    assert calm["error_kinds"] == {"timeout": calm["offered"] - calm["ok"]}
    assert done.code == 1
    assert "--max-error-share" in done.output


def test_requests_in_flight_are_bounded_and_the_rest_is_counted(fake_api: Fake, run: Run) -> None:
    fake_api.stall_after = 0
    arguments = ["--duration", "0.9", "--rate", "80", "--timeout", "0.7", "--outstanding", "5"]
    done = run(*arguments, "--min-achieved", "0.9")
    calm = done.summary["phases"]["calm"]
    assert calm["offered"] == calm["sent"] + calm["not_sent"] == due(duration=0.9, rate=80)
    assert calm["sent"] <= 20  # five places, each free again when the time is out
    assert calm["achieved_share"] < 0.5
    assert done.code == 1
    assert "--min-achieved" in done.output


def test_refusals_are_shed_and_not_errors(fake_api: Fake, run: Run) -> None:
    fake_api.status = 503
    done = run("--duration", "1", "--rate", "40")
    calm = done.summary["phases"]["calm"]
    assert calm["shed"] == calm["offered"] > 0
    assert calm["errors"] == calm["ok"] == calm["shed_without_retry_after"] == 0
    assert done.code == 0, done.output
    assert fake_api.of("/v1/events") == []


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(500, None, "status 500"), (200, b'{"items": 3}', "answer outside the contract")],
    ids=["status", "body"],
)
def test_wrong_answers_are_errors_and_fail_the_run(
    fake_api: Fake, run: Run, status: int, body: bytes | None, kind: str
) -> None:
    fake_api.status, fake_api.body = status, body
    done = run("--duration", "0.5", "--rate", "40")
    calm = done.summary["phases"]["calm"]
    assert calm["error_kinds"] == {kind: calm["offered"]}
    assert done.code == 1
    assert done.summary["passed"] is False


def test_a_slow_p99_fails_the_run(run: Run) -> None:
    done = run("--duration", "0.5", "--rate", "40", "--max-p99-ms", "0.001")
    assert done.code == 1
    assert [t["option"] for t in done.summary["thresholds"] if not t["ok"]] == ["max_p99_ms"]


def test_an_expert_is_ill_for_as_long_as_it_is_told(fake_api: Fake, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_ADMIN_KEY", "a-key")
    arguments = ["--shape", "slow_expert", "--duration", "1.5", "--crowd-seconds", "0.5", "--rate", "40"]
    done = run(*arguments, "--expert", "3", "--expert-slow-us", "70")
    assert done.code == 0, done.output
    told = [body["inject"] for body in fake_api.of("/v1/router")]
    assert told[0] == {}, "the key is tried before anything is sent"
    assert [ill for ill in told if ill] == [{"3": 70.0}], done.output
    assert told[-1] == {}
    assert list(done.summary["phases"]) == ["calm", "crowd", "after"]
    monkeypatch.setenv("LOADTEST_ADMIN_KEY", "another")
    done = run(*arguments)
    assert done.code == 2
    assert "status 401" in done.output


def test_real_events_are_sent_again_in_their_order(fake_api: Fake, run: Run, tmp_path: Path) -> None:
    rows = [(n % 7, n, 1 + n % 5, 1_000 + (n * 37) % 101) for n in range(60)]
    file = tmp_path / "u.data"
    file.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    arguments = ["--shape", "replay", "--events-file", str(file), "--rate", "20", "--duration", "1"]
    done = run(*arguments, tastes=Path("absent.json"))
    assert done.code == 0, done.output
    first = sorted(rows, key=lambda row: row[3])[:20]
    asked = fake_api.of("/v1/recommendations")
    assert sorted(body["user_id"] for body in asked) == sorted(str(row[0]) for row in first)
    assert all("history" not in body for body in asked)
    events = [event for body in fake_api.of("/v1/events") for event in body["events"]]
    wanted = sorted((str(row[1]), "like" if row[2] >= 4 else "click") for row in first)
    assert sorted((event["item_id"], event["kind"]) for event in events) == wanted


def test_workers_make_one_load_together(fake_api: Fake, tastes_file: Path, tmp_path: Path, unused_port: int) -> None:
    summary = tmp_path / "summary.json"
    load = ["--shape", "flash_crowd", "--rate", "30", "--duration", "2", "--crowd-seconds", "1", "--crowd-factor", "3"]
    ports = (["--master-bind-port", str(unused_port)], ["--master-port", str(unused_port)])
    started = [
        subprocess.Popen(
            command(fake_api.url, tastes_file, summary, *role),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for role in (
            [*load, "--master", "--expect-workers", "2", *ports[0]],
            # what a worker is told itself counts for nothing: the master has the say
            ["--worker", "--rate", "1000", *ports[1]],
            ["--worker", *ports[1]],
        )
    ]
    try:
        outputs = [process.communicate(timeout=40)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0, 0], outputs[0]
    found = json.loads(summary.read_text())
    assert found["workers"] == 2
    assert found["passed"]
    parts = [[arrival.phase.name for arrival in arrivals_of(Options(**FLASH), Part(index, 2))] for index in range(2)]
    for name, phase in found["phases"].items():
        assert phase["offered"] == phase["ok"] == sum(part.count(name) for part in parts)
    assert len(fake_api.of("/v1/recommendations")) == sum(map(len, parts))


FLASH = {"shape": "flash_crowd", "rate": 30, "duration": 2, "crowd_seconds": 1, "crowd_factor": 3}


def test_the_demo_goes_on_until_it_is_asked_to_stop(fake_api: Fake, tastes_file: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    arguments = ["--shape", "demo", "--rate", "20", "--crowd-every", "1", "--crowd-seconds", "0.4"]
    demo = subprocess.Popen(
        command(fake_api.url, tastes_file, summary, *arguments),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert demo.stdout is not None
        crowds = 0
        for line in demo.stdout:
            crowds += "crowd: 200 requests/s" in line
            if crowds == 2:
                break
        demo.send_signal(signal.SIGTERM)
        output, _ = demo.communicate(timeout=15)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0, output
    phases = json.loads(summary.read_text())["phases"]
    assert phases["calm"]["ok"] > 0
    assert phases["crowd"]["ok"] > 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rate", "-1"], "--rate: -1.0 is not within"),
        (["--host", "http://192.0.2.1:8000"], "192.0.2.1 is not this machine; --allow-remote permits it"),
        (["--tastes", "absent.json"], "absent.json: cannot be read"),
        (["--shape", "slow_expert"], "LOADTEST_ADMIN_KEY: --shape slow_expert needs the admin key"),
    ],
    ids=["bound", "remote", "file", "key"],
)
def test_a_run_that_cannot_start_says_why(fake_api: Fake, run: Run, arguments: list[str], complaint: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert complaint in done.output
    assert "Traceback" not in done.output
    assert done.summary == {}
    assert fake_api.of("/v1/recommendations") == []
