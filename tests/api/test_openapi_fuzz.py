"""Generated requests, valid and not: never a 500, never an undocumented shape, and the service lives on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, start_service: Any) -> Iterator[Any]:
    """A service of this module's own: generated requests change the catalogue."""
    with start_service(tmp_path_factory.mktemp("fuzzed")) as running:
        yield running


ENDLESS = "/v1/experts/stream"  # a call that never ends has no answer to check
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_generated_requests(target: Any) -> None:
    document = schemathesis.openapi.from_url(f"{target.base}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations() if found.ok().path != ENDLESS]
    assert len(operations) > 12
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case: Any) -> None:
            case.headers = {**(case.headers or {}), **target.admin}
            case.call_and_validate(checks=CHECKS, timeout=20)

        ask()


def test_the_service_still_answers(target: Any) -> None:
    answer = httpx.post(f"{target.base}/v1/recommendations", json={"history": ["i1"], "k": 3})
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == 3
