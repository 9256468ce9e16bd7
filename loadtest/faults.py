"""Makes one expert of the service ill and well again, by `PUT /v1/router`."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

import msgspec
from geventhttpclient import HTTPClient

from loadtest.options import ENV_PREFIX, LoadTestError, Options

KEY_VARIABLE = ENV_PREFIX + "ADMIN_KEY"  # not an option: command lines can be read by everybody on the machine
LEFT_BEHIND_S = 60.0  # that an expert stays ill at most if this process is killed
SHAPES = frozenset({"slow_expert", "dead_expert"})

logger = logging.getLogger(__name__)


class ExpertFault:
    """What ails one expert, as the service is told.

    Args:
        base_url: `http://host:port` of the service.
        options: which expert, and the time-out.

    Raises:
        LoadTestError: no admin key.
    """

    def __init__(self, base_url: str, options: Options) -> None:
        self._expert = options.expert
        self._headers = {"X-Api-Key": os.environ.get(KEY_VARIABLE, ""), "Content-Type": "application/json"}
        self._for_s = options.crowd_seconds + LEFT_BEHIND_S
        self._injected: float | Literal["dead"] | None = None
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

    def set(self, injected: float | Literal["dead"] | None) -> None:
        """Make the expert slower by microseconds per slot, `dead`, or well (None). A failure is logged, no more."""
        if injected == self._injected:
            return
        self._injected = injected
        if problem := self._put({} if injected is None else {str(self._expert): injected}):
            logger.error("expert %d: %s", self._expert, problem)
        else:
            slower = f"{injected:g} us per slot slower" if isinstance(injected, float) else injected
            logger.info("expert %d is %s", self._expert, slower or "well")

    def _put(self, inject: dict[str, Any]) -> str:
        """What went wrong; empty if nothing."""
        body = msgspec.json.encode({"inject": inject, "inject_for_s": self._for_s})
        try:
            response = self._client.request("PUT", "/v1/router", body=body, headers=self._headers)
            content = bytes(response.read())
        except Exception as error:  # a broken connection, of whatever class
            return f"PUT /v1/router: {type(error).__name__}: {error}"
        status = int(response.status_code)
        return "" if status < 300 else f"PUT /v1/router: status {status}: {content[:200].decode(errors='replace')}"
