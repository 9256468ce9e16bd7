"""Thousands of generated requests, valid and not: never a 500, never an undocumented shape, and the service lives on."""

from __future__ import annotations

from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_generated_requests(service: Any) -> None:
    document = schemathesis.openapi.from_url(f"{service.base}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 12
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case: Any) -> None:
            case.headers = {**(case.headers or {}), **service.admin}
            case.call_and_validate(checks=CHECKS, timeout=20)

        ask()


def test_the_service_still_answers(service: Any) -> None:
    answer = httpx.post(f"{service.base}/v1/recommendations", json={"history": ["i1"], "k": 3})
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == 3
