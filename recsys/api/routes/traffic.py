"""`POST /v1/router/compare/traffic`: the traffic of the last minute under two policies."""

from __future__ import annotations

from fastapi import APIRouter, Request

from recsys.api.deadline import budget_s
from recsys.api.deps import Admin, Res
from recsys.api.problems import describe
from recsys.api.traffic import compare_traffic
from recsys.api.traffic_schemas import TrafficComparison, TrafficComparisonBody

routes = APIRouter(prefix="/v1", tags=["routing"])


@routes.post("/router/compare/traffic", dependencies=[Admin], responses=describe(401, 403, 413, 422, 503))
async def post_compare_traffic(body: TrafficComparisonBody, request: Request, res: Res) -> TrafficComparison:
    """A sample of the newest queries again, under one policy and then under the other. Changes nothing.

    It needs the key because one call makes up to two hundred queries. With several API processes, each knows its own.
    """
    longest_ms = res.settings.api.deadline_ms_max
    left_s = budget_s(request.headers.get("x-deadline-ms"), res, default_ms=longest_ms)
    return await compare_traffic(body.policies, seconds=body.seconds, most=body.most, budget_s=left_s, res=res)
