"""An engine whose experts all run as many rows as the fullest one: what static shapes cost without balance.

`python -m recsys.bench.padded_engine`, with the settings of every engine. `recsys bench burst` compares with it.
"""

from __future__ import annotations

from torch import Tensor

from recsys.config import Settings
from recsys.engine.served import Served
from recsys.engine.server import run_engine
from router.router import Router
from router.shapes import OwnThreshold, RoutingPlan


class PaddedRouter(Router):
    """Lays out the load of the fullest expert for each."""

    _fullest: int | None = None

    def route(
        self, layer: int, scores_TE: Tensor, k: int, bias_E: Tensor, own: OwnThreshold | None = None
    ) -> RoutingPlan:
        """See `Router.route`."""
        plan = super().route(layer, scores_TE, k, bias_E, own)
        self._fullest = int(plan.load_E.max())
        return plan

    def static_capacity(self, tokens: int, k: int) -> int | None:
        """Rows per expert: what the batch that was routed last needs at least to lose nothing."""
        return self._fullest


if __name__ == "__main__":
    Served.router_type = PaddedRouter
    run_engine(Settings())
