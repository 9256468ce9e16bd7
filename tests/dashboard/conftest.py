"""A small service that speaks `/v1`: made-up load, calm or in a flash crowd, and a catalogue that learns from likes."""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response

from recsys.api import expert_users_schemas, router_schemas, schemas, system_schemas, traffic_schemas
from recsys.api.compare import difference
from recsys.wire import LayerLoad, LoadSnapshot

KEY = "a-key-for-tests"
EXPERTS, TICK_MS, K = 16, 250, 2
CATEGORIES = ("comedy", "drama", "thriller", "science fiction", "documentary")
FIRST = (
    "Night",
    "Silver",
    "Lost",
    "Second",
    "Paper",
    "Northern",
    "Quiet",
    "Last",
    "Open",
    "Hidden",
    "Golden",
    "Broken",
)
SECOND = ("Train", "River", "Letter", "Season", "Harbour")


@dataclass
class FakeService:
    """State of the made-up service; tests turn its knobs while it runs."""

    hot: tuple[int, ...] = ()  # experts of the flash crowd
    hot_since_ms: int = 0
    traffic: bool = True
    frozen: bool = False  # engines stopped publishing
    engines: tuple[str, ...] = ("engine-0",)
    layers: int = 2
    fallback: bool = False
    unavailable: str = ""  # why every call of /v1 is answered 503
    policy: str = "price"
    capacity_factor: float = 1.25
    policy_log: list[tuple[int, str, float]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    users: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)
    polls: int = 0
    versions: tuple[str, ...] = ("m-19", "m-20")
    version: str = "m-20"
    previous: str | None = None
    budget: router_schemas.QualityBudgetAnswer | None = None
    returned: router_schemas.PolicyReturned | None = None
    lane_us: float = 0.0
    lane_log: list[tuple[float, float]] = field(default_factory=list)  # (lane_us, seconds it was asked for)
    turned_away_per_s: float = 0.0  # by the API, before any engine hears of it
    silent: tuple[str, ...] = ()  # roles that say nothing any more
    gone: tuple[str, ...] = ()  # roles that were never there, or long ago
    letters: int = 0
    behind_s: float = 0.0
    began_s: float = field(default_factory=time.time)
    _snapshots: list[LoadSnapshot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.items = {
            f"i{n}": {"title": f"{FIRST[n % 12]} {SECOND[n % 5]}", "categories": [CATEGORIES[n % 5], CATEGORIES[n % 3]]}
            for n in range(60)
        }
        self.users["u1"] = [("i3", "like", 1_700_000_000_000), ("i8", "view", 1_700_000_060_000)]

    def flash_crowd(self, *experts: int, ago_s: float = 0.0) -> None:
        self.hot, self.hot_since_ms = experts, int((time.time() - ago_s) * 1_000)
        self._snapshots.clear()

    def snapshots(self, window_s: float) -> list[LoadSnapshot]:
        now = int(time.time() * 1_000) // TICK_MS * TICK_MS
        if not self.frozen:
            first = self._snapshots[-1].ts + TICK_MS if self._snapshots else now - 120_000
            for ts in range(first, now + 1, TICK_MS):
                self._snapshots += [self._snapshot(engine, ts) for engine in self.engines]
            del self._snapshots[: -600 * len(self.engines)]
        newest = self._snapshots[-1].ts if self._snapshots else 0
        return [s for s in self._snapshots if s.ts >= newest - window_s * 1_000]

    def _snapshot(self, engine: str, ts: int) -> LoadSnapshot:
        rng = random.Random(f"{engine} {ts}")
        policy, factor = self.policy, self.capacity_factor
        heat = min(1.0, max(0.0, (ts - self.hot_since_ms) / 6_000)) if self.hot else 0.0
        rate = (900 + 2_400 * heat) * (1 + 0.1 * math.sin(ts / 9_000)) * rng.uniform(0.93, 1.07) * self.traffic
        queries = round(rate * TICK_MS / 1_000)
        layers = [self._layer(rng, ts, layer, queries, heat, policy, factor) for layer in range(self.layers)]
        worst = max((load.max_over_mean_served for load in layers), default=1.0)
        busy = queries / (TICK_MS / 1_000) / 4_000 * (worst / 1.2)
        refused = round(queries * min(0.7, max(0.0, 1 - 1 / busy))) if busy > 1 else 0
        pressure = min(1.4, 0.12 + 0.6 * busy**2) if queries else 0.0
        rungs = ("calm", 0.0), ("redirect", 0.35), ("economise", 0.9), ("shed", 1.2)
        step = [name for name, above in rungs if pressure >= above][-1]
        base = (4.0 + 9.0 * pressure**2) * rng.uniform(0.92, 1.1) if queries else 0.0
        base += worst * self.lane_us / 10  # a step waits for its fullest expert
        return LoadSnapshot(
            engine=engine, ts=ts, interval_ms=float(TICK_MS), model_version="m-20", policy=policy,
            capacity_factor=factor, step=step, pressure=pressure, queue=round(512 * max(0.0, pressure - 0.3) / 1.1),
            queue_max=512, answered=queries - refused, refused=refused, expired=refused // 12, failed=0,
            batches=max(1, queries // 9), batch_requests_mean=9.0, tokens=queries * 200, step_ms_p50=base / 2,
            step_ms_p99=base, latency_ms_p50=base, latency_ms_p95=base * 1.6 + 20 * max(0.0, pressure - 1),
            latency_ms_p99=base * 2.1 + 160 * max(0.0, pressure - 1), layers=layers, lane_us=self.lane_us,
        )  # fmt: skip

    def _layer(
        self, rng: random.Random, ts: int, layer: int, queries: int, heat: float, policy: str, factor: float
    ) -> LayerLoad:
        slots = queries * 200 * K
        hot = tuple((e + 5 * layer) % EXPERTS for e in self.hot)
        wish = [
            1.0 + 0.35 * math.sin(1.7 * e + 0.9 * layer + ts / 31_000) * rng.uniform(0.8, 1.2)
            + (5.0 * heat * (1.0 if e == hot[0] else 0.5) if e in hot else 0.0)
            for e in range(EXPERTS)
        ]  # fmt: skip
        demand = [round(slots * w / sum(wish)) for w in wish]
        capacity = [factor * sum(demand) / EXPERTS] * EXPERTS
        served, flow = list(demand), []
        if policy != "topk":
            spare = [max(0.0, c - d) for c, d in zip(capacity, demand, strict=True)]
            total = sum(spare) or 1.0
            for giver, (d, c) in enumerate(zip(demand, capacity, strict=True)):
                over = max(0, d - int(c))
                for taker, room in enumerate(spare):
                    slots_moved = int(over * room / total)
                    if slots_moved:
                        flow.append((giver, taker, slots_moved))
                        served[giver] -= slots_moved
                        served[taker] += slots_moved
        mean = max(1e-9, sum(demand) / EXPERTS)
        moved = sum(n for _, _, n in flow)
        return LayerLoad(
            demand=demand, served=served, dropped=0, capacity=capacity,
            redirected_in=[sum(n for _, t, n in flow if t == e) for e in range(EXPERTS)],
            redirected_out=[sum(n for g, _, n in flow if g == e) for e in range(EXPERTS)],
            price=[0.0 if policy == "topk" else max(0.0, 0.09 * (d / mean - factor)) for d in demand],
            max_over_mean_demand=max(demand) / mean, max_over_mean_served=max(served) / mean,
            score_kept=1 - 0.06 * moved / max(1, slots), certified_gap=0.004 * moved / max(1, slots), flow=flow,
        )  # fmt: skip

    def expert_users(self) -> expert_users_schemas.ExpertUsersAnswer:
        def leaning(*own: int) -> list[float]:
            weight = [3.0 if e in own else 1.0 for e in range(EXPERTS)]
            return [w / sum(weight) for w in weight]

        kinds = [
            expert_users_schemas.UserKind(kind=name, users=9 - n, share=leaning(3 * n, 3 * n + 1))
            for n, name in enumerate(CATEGORIES)
        ]
        layers = [
            expert_users_schemas.ExpertUsersLayer(
                layer=layer, share=leaning(), leads=[3 if e % 3 == 0 else 2 for e in range(EXPERTS)], kinds=kinds
            )
            for layer in range(self.layers)
        ]
        return expert_users_schemas.ExpertUsersAnswer(asked=40, answered=35, layers=layers)

    def system(self) -> system_schemas.SystemAnswer:
        now_s = time.time()
        seconds = now_s - self.began_s
        away = int(self.turned_away_per_s * seconds)
        counts = system_schemas.QueryCountsAnswer(
            answered=int(900 * seconds), fallback=3, refused=away + 7, turned_away=away, limited=0
        )
        processes = []
        for n, role in enumerate(("api", "engine", "learner", "worker")):
            if role in self.gone:
                continue
            heard_s = 12.0 if role in self.silent else 0.4
            processes.append(
                system_schemas.ProcessAnswer(
                    role=role,
                    name=f"{role}-{n}",
                    host="made-up",
                    pid=100 + n,
                    version="0.1.0",
                    model=self.version if role == "engine" else "",
                    memory_mb=120.5 * (n + 1),
                    since=int((self.began_s - 4_000) * 1e3),
                    ts=int((now_s - heard_s) * 1e3),
                    heard_s=heard_s,
                    present=heard_s < 5,
                    queries=counts if role == "api" else None,
                )
            )
        group = system_schemas.GroupAnswer(name="features", consumers=2, waiting=12, pending=3, behind_s=self.behind_s)
        return system_schemas.SystemAnswer(
            processes=processes, stream=system_schemas.StreamAnswer(entries=10_400, groups=[group]),
            dead_letters=system_schemas.DeadLettersAnswer(
                count=self.letters, newest_ms=int(now_s * 1e3) - 65_000 if self.letters else None,
                reasons={"kind": self.letters} if self.letters else {},
            ),
            redis=system_schemas.RedisAnswer(
                version="8.0.2", memory_mb=41.5, memory_max_mb=None, since=int((now_s - 90_000) * 1e3)
            ),
        )  # fmt: skip

    def recommend(self, body: schemas.RecommendationRequest) -> schemas.RecommendationAnswer:
        seen = dict.fromkeys(body.history or [i for i, _, _ in self.users.get(body.user_id or "", [])])
        hidden = {i for i, kind, _ in self.users.get(body.user_id or "", []) if kind == "hide"}
        weights = body.goals or {"click": 1.0}
        taste = [c for item in seen for c in self.items[item]["categories"]]
        scored = []
        for item, what in self.items.items():
            if (body.exclude_seen and item in seen) or item in hidden or item in body.exclude_items:
                continue
            wanted = body.filters.categories_any
            if (wanted and not set(wanted) & set(what["categories"])) or (
                set(body.filters.categories_none) & set(what["categories"])
            ):
                continue
            match = sum(taste.count(c) for c in what["categories"]) / (1 + len(taste))
            noise = random.Random(item).random()
            goals = {"click": 0.15 + 0.5 * match + 0.2 * noise, "like": 0.05 + 0.4 * match * noise + 0.1 * (1 - noise)}
            score = sum(weights.get(g, 0.0) * s for g, s in goals.items())
            scored.append(schemas.RecommendedItem(item_id=item, score=score, goals=goals, **what))
        scored.sort(key=lambda item: -item.score)
        items = scored[: body.k]
        explain = [
            schemas.Explanation(
                item_id=item.item_id, layer=layer, experts=[n % EXPERTS, (n * 3 + layer + 1) % EXPERTS],
                gates=[0.7, 0.3],
                redirected_from=[5] if n % 3 == 0 else [],
                redirected_to=[n % EXPERTS] if n % 3 == 0 else [],
            )
            for n, item in enumerate(items) for layer in range(self.layers)
        ]  # fmt: skip
        return schemas.RecommendationAnswer(
            request_id=f"r{len(self.requests)}", items=items, model_version="m-20", policy=self.policy,
            degraded=schemas.Degraded(step="redirect" if self.hot else "calm", redirected=0.3 if self.hot else 0.0,
                                      score_kept=0.982 if self.hot else 1.0),
            cold_start=not seen, fallback="no engine answered in time" if self.fallback else None,
            timing=schemas.Timing(total_ms=6.4, state_ms=0.8, queue_ms=1.1, compute_ms=4.2),
            explain=explain if body.explain and not self.fallback else None,
        )  # fmt: skip

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def refuse(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            if self.unavailable and request.url.path.startswith("/v1"):
                return _problem(503, self.unavailable)
            return await call_next(request)

        @app.get("/v1/experts")
        def experts(window_s: float = 60.0) -> schemas.ExpertsAnswer:
            self.polls += 1
            return schemas.ExpertsAnswer(engines=list(self.engines), snapshots=self.snapshots(window_s))

        @app.get("/v1/experts/users", response_model=None)
        def users() -> expert_users_schemas.ExpertUsersAnswer | JSONResponse:
            if not self.traffic:
                return _problem(503, "nobody asked for anything in the last two minutes")
            return self.expert_users()

        @app.get("/v1/system")
        def system() -> system_schemas.SystemAnswer:
            return self.system()

        @app.get("/v1/dead-letters", response_model=None)
        def dead_letters(
            count: int = 20, x_api_key: Annotated[str | None, Header()] = None
        ) -> system_schemas.DeadLetterList | JSONResponse:
            if x_api_key != KEY:
                return _problem(401, "X-Api-Key: missing or wrong")
            letter = system_schemas.DeadLetterAnswer(
                id="1763820000000-0", source_id="1763819999990-0", reason="kind: 'adored' is not one of view, like",
                fields={"type": "interaction", "user_id": "eve"},
            )  # fmt: skip
            return system_schemas.DeadLetterList(count=self.letters, letters=[letter] * min(count, self.letters))

        @app.get("/v1/router")
        def router() -> router_schemas.RouterAnswer:
            return router_schemas.RouterAnswer(
                policy=self.policy, capacity_factor=self.capacity_factor, policies=["price", "topk", "p2c", "hash"],
                active=dict.fromkeys(self.engines, self.policy), quality_budget=self.budget, returned=self.returned,
                lane_us=self.lane_us,
            )  # fmt: skip

        @app.put("/v1/router", response_model=None)
        def switch(
            body: router_schemas.RouterBody, x_api_key: Annotated[str | None, Header()] = None
        ) -> router_schemas.RouterAnswer | JSONResponse:
            if x_api_key != KEY:
                return _problem(401, "X-Api-Key: missing or wrong")
            before = {"previous_policy": self.policy, "previous_capacity_factor": self.capacity_factor}
            asked = body.quality_budget
            self.budget = router_schemas.QualityBudgetAnswer(**asked.model_dump(), **before) if asked else None
            self.policy = body.policy or self.policy
            if body.lane_us is not None:
                self.lane_us = body.lane_us
                self.lane_log.append((body.lane_us, body.inject_for_s))
            self.capacity_factor = body.capacity_factor or self.capacity_factor
            return router()

        @app.post("/v1/recommendations", response_model=None)
        def recommendations(body: schemas.RecommendationRequest) -> schemas.RecommendationAnswer:
            self.requests.append(body.model_dump())
            return self.recommend(body)

        @app.post("/v1/router/compare", response_model=None)
        def compare(body: router_schemas.ComparisonBody) -> router_schemas.RouterComparison:
            self.requests.append(body.model_dump())
            answers = []
            for policy in body.policies:
                told = self.recommend(body.query).model_dump(exclude={"request_id", "fallback", "policy"})
                if policy == "hash":
                    told["items"] = [*told["items"][2:4], *told["items"][:1], *told["items"][4:]]
                    told["degraded"]["score_kept"] = 0.61
                answers.append(router_schemas.RoutedAnswer(policy=policy, **told))
            return router_schemas.RouterComparison(
                first=answers[0], second=answers[1], difference=difference(answers[0], answers[1])
            )

        @app.post("/v1/router/compare/traffic", response_model=None)
        def traffic(
            body: traffic_schemas.TrafficComparisonBody, x_api_key: Annotated[str | None, Header()] = None
        ) -> traffic_schemas.TrafficComparison | JSONResponse:
            if x_api_key != KEY:
                return _problem(401, "X-Api-Key: missing or wrong")
            asked = 64 if self.traffic else 0
            sides = [
                traffic_schemas.RoutedTraffic(
                    policy=policy, answered=asked, refused=0, steps={"redirect": asked} if asked else {},
                    score_kept=0.61 if policy == "hash" else 0.98, redirected=0.2, compute_ms_p50=4.0,
                    compute_ms_p99=9.0,
                )
                for policy in body.policies
            ]  # fmt: skip
            return traffic_schemas.TrafficComparison(
                kept=500, asked=asked, first=sides[0], second=sides[1], compared=asked, same=0.25, overlap=0.8,
                first_item_same=0.5,
            )  # fmt: skip

        @app.get("/v1/models")
        def models() -> schemas.ModelsAnswer:
            served = [schemas.ServedModel(engine=engine, model_version=self.version) for engine in self.engines]
            return schemas.ModelsAnswer(
                models=served, available=list(self.versions), wanted=self.version, previous=self.previous
            )

        @app.post("/v1/models/{version}/activate", response_model=None)
        def activate(
            version: str, x_api_key: Annotated[str | None, Header()] = None
        ) -> schemas.ModelsAnswer | JSONResponse:
            if x_api_key != KEY:
                return _problem(401, "X-Api-Key: missing or wrong")
            self.version, self.previous = version, self.version
            return models()

        @app.post("/v1/models/rollback", response_model=None)
        def rollback(x_api_key: Annotated[str | None, Header()] = None) -> schemas.ModelsAnswer | JSONResponse:
            return activate(self.previous or "", x_api_key)

        @app.post("/v1/events", status_code=202)
        def events(body: schemas.EventsBody) -> schemas.EventsAnswer:
            for raw in body.events:
                event = schemas.InteractionBody.model_validate(raw)
                self.events.append(raw)
                entry = (event.item_id, event.kind, int(time.time() * 1_000))
                self.users.setdefault(event.user_id, []).append(entry)
            ids = [f"e{n}" for n in range(len(body.events))]
            return schemas.EventsAnswer(accepted=len(ids), duplicates=0, rejected=[], event_ids=ids)

        @app.get("/v1/users/{user_id}", response_model=None)
        def user(user_id: str) -> schemas.UserAnswer | JSONResponse:
            entries = self.users.get(user_id)
            if entries is None:
                return _problem(404, f"user_id: {user_id!r} is not known")
            history = [
                schemas.HistoryEntry(item_id=i, kind=kind, ts=ts, title=self.items[i]["title"])
                for i, kind, ts in reversed(entries)
                if kind != "hide"
            ]
            return schemas.UserAnswer(
                user_id=user_id, attributes={"country": "NL"}, history=history,
                hidden=[i for i, kind, _ in entries if kind == "hide"], counts={"like": 1},
            )  # fmt: skip

        @app.get("/v1/popular")
        def popular(window: str = "24h", k: int = 10) -> schemas.PopularAnswer:
            items = [
                schemas.RecommendedItem(item_id=i, score=100.0 - n, **what)
                for n, (i, what) in enumerate(self.items.items())
            ]
            return schemas.PopularAnswer(window=window, items=items[:k])

        @app.get("/readyz")
        def readyz() -> JSONResponse:
            body = schemas.Readiness(
                ready=not self.fallback, redis=True, engine=not self.fallback, model_version="m-20",
                catalogue_items=len(self.items), backlog=12,
            )  # fmt: skip
            return JSONResponse(body.model_dump(), status_code=200 if body.ready else 503)

        return app


def _problem(status: int, detail: str) -> JSONResponse:
    body = schemas.Problem(title="error", status=status, detail=detail).model_dump()
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class ServedFake:
    """A `FakeService` behind a real HTTP server that can be stopped and brought back on the same port."""

    def __init__(self, fake: FakeService) -> None:
        self.fake = fake
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: uvicorn.Server | None = None

    def start(self) -> None:
        config = uvicorn.Config(self.fake.app(), host="127.0.0.1", port=self.port, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        self._server, self._thread = server, threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline, "the made-up service did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join(timeout=10)
            self._server = None


@pytest.fixture(scope="session")
def made_up_service() -> type[FakeService]:
    """The made-up service itself, without HTTP."""
    return FakeService


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedFake]:
    """The made-up service over HTTP; the board is pointed at it."""
    service = ServedFake(FakeService())
    service.start()
    monkeypatch.setenv("RECSYS_API_URL", service.url)
    monkeypatch.delenv("RECSYS_DASHBOARD_KEY", raising=False)
    yield service
    service.stop()


@pytest.fixture
def unused_port() -> int:
    """A port of the loopback that nobody listens on now."""
    return _free_port()
