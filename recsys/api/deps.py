"""What handlers need, built once per process and handed to them by type."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from redis.asyncio import Redis
from starlette.exceptions import HTTPException

from recsys.api.congestion import Congestion
from recsys.api.engine_pool import EnginePool
from recsys.api.expert_users_schemas import ExpertUsersAnswer
from recsys.api.fallback import Fallback
from recsys.api.impressions import ImpressionWriter
from recsys.api.item_cache import ItemCache
from recsys.api.kept_answer import KeptAnswer
from recsys.api.load_stream import LoadStream
from recsys.api.metrics import ApiMetrics
from recsys.api.recent import RecentQueries
from recsys.api.system import SystemFacts
from recsys.api.tastes import Tastes
from recsys.config import Settings
from recsys.events.producer import EventProducer
from recsys.state.keys import Keys
from recsys.state.popular import PopularItems
from recsys.state.telemetry import TelemetryReader
from recsys.state.users import UserReader


@dataclass(frozen=True, slots=True)
class Resources:
    """Connections and caches of one API process."""

    settings: Settings
    keys: Keys
    redis: Redis
    engine: EnginePool
    congestion: Congestion
    producer: EventProducer
    impressions: ImpressionWriter
    items: ItemCache
    users: UserReader
    tastes: Tastes
    popular: PopularItems
    telemetry: TelemetryReader
    load_stream: LoadStream
    fallback: Fallback
    recent: RecentQueries
    system: SystemFacts
    expert_users: KeptAnswer[ExpertUsersAnswer]
    metrics: ApiMetrics


def resources(request: Request) -> Resources:
    """The process's resources."""
    found: Resources = request.app.state.resources
    return found


Res = Annotated[Resources, Depends(resources)]


def require_admin(res: Res, x_api_key: Annotated[str | None, Header()] = None) -> None:
    """Let only the admin key pass.

    Raises:
        HTTPException: 403 if no key is set on the server, 401 if the caller's is absent or wrong.
    """
    wanted = res.settings.api.admin_key
    if wanted is None or not wanted.get_secret_value():  # set to nothing is not set: "" would equal an absent header
        raise HTTPException(403, "X-Api-Key: admin calls are off because the server has no RECSYS_API__ADMIN_KEY")
    given = (x_api_key or "").encode()
    if not hmac.compare_digest(given, wanted.get_secret_value().encode()):
        raise HTTPException(401, "X-Api-Key: missing or wrong", headers={"WWW-Authenticate": "ApiKey"})


Admin = Depends(require_admin)
