"""Makes one expert of the service sick and well again, by `PUT /v1/router`."""

from __future__ import annotations

import logging
import os
from typing import Any

import msgspec
from geventhttpclient import HTTPClient

from loadtest.options import ENV_PREFIX, LoadTestError, Options

KEY_VARIABLE = ENV_PREFIX + "ADMIN_KEY"  # not an option: command lines can be read by everybody on the machine
SHAPES = frozenset({"slow_expert", "dead_expert"})

logger = logging.getLogger(__name__)


class ExpertHealth:
    """The health of one expert, as the service is told.

    Args:
        base_url: `http://host:port` of the service.
        options: which expert, and the time-out.

    Raises:
        LoadTestError: no admin key.
    """

    def __init__(self, base_url: str, options: Options) -> None:
        self._expert = options.expert
        self._headers = {"X-Api-Key": os.environ.get(KEY_VARIABLE, ""), "Content-Type": "application/json"}
        self._left = 1.0
        if not self._headers["X-Api-Key"]:
            raise LoadTestError(f"{KEY_VARIABLE}: --shape {options.shape} needs the admin key of the service")
        self._client = HTTPClient.from_url(
            base_url, connection_timeout=options.timeout, network_timeout=options.timeout
        )

    def check(self) -> None:
        """Say that all is well, to see whether the service listens.

        Raises:
            LoadTestError: it does not, or does not take the key.
        """
        if problem := self._put({}):
            raise LoadTestError(problem)

    def set(self, left: float) -> None:
        """Leave `left` of its capacity to the expert; 1 = all is well. A failure is logged, the run goes on."""
        if left == self._left:
            return
        self._left = left
        problem = self._put({} if left >= 1 else {str(self._expert): left})
        if problem:
            logger.error("expert %d: %s", self._expert, problem)
        else:
            logger.info("expert %d has %.0f %% of its capacity", self._expert, 100 * left)

    def _put(self, health: dict[str, Any]) -> str:
        """What went wrong; empty if nothing."""
        body = msgspec.json.encode({"health": health})
        try:
            response = self._client.request("PUT", "/v1/router", body=body, headers=self._headers)
            content = bytes(response.read())
        except Exception as error:  # a broken connection, of whatever class
            return f"PUT /v1/router: {type(error).__name__}: {error}"
        status = int(response.status_code)
        return "" if status < 300 else f"PUT /v1/router: status {status}: {content[:200].decode(errors='replace')}"
