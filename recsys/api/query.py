"""A recommendation query as the service works with it, read from JSON without pydantic.

`decode_query` takes only what `RecommendationRequest` would take too, with the same meaning (a test compares the two
on thousands of generated bodies). What it does not take is left to pydantic, which names the error; so there is one
set of error messages, and leniencies such as `"k": "5"` still work.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from recsys.api.schemas import RecommendationRequest
from recsys.events.schema import ID_MAX
from recsys.wire import Filters

_Id = Annotated[str, Meta(min_length=1, max_length=ID_MAX)]
_Ids32 = Annotated[tuple[_Id, ...], Meta(max_length=32)]
_Year = Annotated[int, Meta(ge=-10_000, le=10_000)]
_Weight = Annotated[float, Meta(ge=-100, le=100)]


class _Filters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    categories_any: _Ids32 = ()
    categories_none: _Ids32 = ()
    year_min: _Year | None = None
    year_max: _Year | None = None


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks, for how many, under which conditions. Fields and bounds as in `RecommendationRequest`."""

    user_id: _Id | None = None
    history: Annotated[tuple[_Id, ...], Meta(max_length=500)] | None = None
    k: Annotated[int, Meta(ge=1)] = 10
    candidates: tuple[_Id, ...] | None = None
    filters: _Filters = _Filters()
    exclude_items: Annotated[tuple[_Id, ...], Meta(max_length=2_000)] = ()
    exclude_seen: bool = True
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    goals: Annotated[dict[str, _Weight], Meta(max_length=16)] = {}
    explain: bool = False
    priority: Literal["interactive", "batch"] = "interactive"
    fallback: Literal["auto", "always", "never"] = "auto"

    @property
    def wire_filters(self) -> Filters:
        """The conditions as the engine reads them."""
        f = self.filters
        return Filters(f.categories_any, f.categories_none, f.year_min, f.year_max)


_decode = msgspec.json.Decoder(Query).decode


def decode_query(body: bytes) -> Query | None:
    """The query in a JSON body, or None if pydantic has to look at it."""
    try:
        query = _decode(body)
    except (msgspec.DecodeError, UnicodeError):  # a ValidationError is a DecodeError
        return None
    return query if _plain(body) or _printable(query) else None


def from_body(body: RecommendationRequest) -> Query:
    """The query in a body that pydantic has checked."""
    return msgspec.convert(body.model_dump(), Query)


def _plain(body: bytes) -> bool:
    """Whether no string of a JSON document can hold a control character: they need an escape, all but DEL."""
    return body.isascii() and b"\\" not in body and b"\x7f" not in body


def _printable(query: Query) -> bool:
    """No control characters in any id."""
    ids = [query.user_id or "", *(query.history or ()), *(query.candidates or ()), *query.exclude_items]
    ids += [*query.filters.categories_any, *query.filters.categories_none]
    return "".join(ids).isprintable()
