"""The fast reader of queries takes nothing that pydantic would not, and means the same by it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys.api.query import Query, decode_query, from_body
from recsys.api.schemas import RecommendationRequest

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 20_000), st.floats(-200, 200), st.text(max_size=6), st.just("x" * 129)
)
ids = st.lists(st.one_of(st.text(min_size=1, max_size=4), st.just(""), st.integers(0, 3)), max_size=4)
filters = st.fixed_dictionaries(
    {},
    optional={
        "categories_any": ids,
        "categories_none": ids,
        "year_min": scalars,
        "year_max": scalars,
        "category": st.just("x"),
    },
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "user_id": scalars,
        "history": st.one_of(st.none(), ids, st.just(["a"] * 501)),
        "k": scalars,
        "candidates": st.one_of(st.none(), ids),
        "filters": st.one_of(st.none(), filters),
        "exclude_items": ids,
        "exclude_seen": scalars,
        "diversity": scalars,
        "goals": st.dictionaries(st.sampled_from(["click", "like", "love", ""]), scalars, max_size=3),
        "explain": scalars,
        "priority": st.sampled_from(["interactive", "batch", "urgent", 1]),
        "fallback": st.sampled_from(["auto", "always", "never", "maybe", None]),
        "kk": st.just(1),
    },
)


def slow(raw: bytes) -> Query | None:
    try:
        return from_body(RecommendationRequest.model_validate(json.loads(raw)))
    except (ValidationError, ValueError):
        return None


@settings(max_examples=3_000, deadline=None, derandomize=True)
@given(bodies)
def test_what_the_fast_reader_takes_pydantic_takes_with_the_same_meaning(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    fast = decode_query(raw)
    if fast is not None:
        assert fast == slow(raw)


@settings(max_examples=1_000, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_left(raw: bytes) -> None:
    fast = decode_query(raw)
    if fast is not None:
        assert fast == slow(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"user_id": "u1", "k": 5}',
        b'{"history": ["i1", "i2"], "filters": {"year_min": 1990}, "goals": {"like": 2}, "diversity": 0.5}',
        b'{"user_id": "u", "candidates": ["a"], "exclude_items": ["b"], "exclude_seen": false, "priority": "batch"}',
    ],
)
def test_ordinary_queries_take_the_fast_way(raw: bytes) -> None:
    assert decode_query(raw) == slow(raw) is not None


@pytest.mark.parametrize(
    "raw", [b'{"user_id": "a\\u0000b"}', b'{"k": NaN}', b'{"user_id": "u", "kk": 1}', b"[]", b"", b'{"k": 1e400}']
)
def test_odd_ones_are_left_to_pydantic(raw: bytes) -> None:
    assert decode_query(raw) is None


def test_the_two_have_the_same_fields_and_defaults() -> None:
    defaults = {f.name: f.default for f in msgspec.structs.fields(Query) if f.name not in ("filters", "goals")}
    documented = {name: field.default for name, field in RecommendationRequest.model_fields.items()}
    assert {*defaults, "filters", "goals"} == set(documented)
    for name, default in defaults.items():
        same = documented[name] == default or (default == () and documented[name] == [])
        assert same, name
