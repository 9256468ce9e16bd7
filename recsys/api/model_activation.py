"""Ask every engine for another model version, and wait until each has it or one says why not."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable
from typing import cast

import msgspec

from recsys.api.deps import Resources
from recsys.api.schemas import ModelsAnswer, ServedModel
from recsys.errors import ConflictError, NotFoundError, UnavailableError
from recsys.wire import EngineModels

WITHIN_S = 30.0
LOOK_EVERY_S = 0.05

_decode = msgspec.json.Decoder(EngineModels).decode

# Written as a whole, and taken back only by whom it is still wanted: somebody may have asked for another one meanwhile.
_WANT = """
if ARGV[4] ~= '' and redis.call('HGET', KEYS[1], 'activation') ~= ARGV[4] then return end
redis.call('HSET', KEYS[1], 'activation', ARGV[1], 'wanted', ARGV[2], 'previous', ARGV[3])
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], 'previous') end
"""


async def models_now(res: Resources) -> ModelsAnswer:
    """What is served, what there is, and what a rollback would bring."""
    engines = await _engines(res)
    stored = await _stored(res)
    available = set.intersection(*(set(state.available) for state in engines.values())) if engines else set()
    return ModelsAnswer(
        models=[ServedModel(engine=name, model_version=state.version) for name, state in sorted(engines.items())],
        available=sorted(available),
        wanted=stored.get("wanted"),
        previous=stored.get("previous"),
    )


async def activate(version: str, res: Resources) -> ModelsAnswer:
    """Serve that version; returns when all engines that are there do.

    Raises:
        NotFoundError: no engine has it. ConflictError: one cannot load it; the version before is wanted again.
        UnavailableError: there is no engine, or they take longer than half a minute.
    """
    engines = await _engines(res)
    if not engines:
        raise UnavailableError("no engine")
    known = {name for state in engines.values() for name in state.available}
    if version not in known:
        raise NotFoundError(f"version: no model {version!r}, there are {', '.join(sorted(known))}", field="version")
    stored = await _stored(res)
    now = stored.get("wanted") or next(iter(engines.values())).version
    previous = now if now != version else stored.get("previous")
    activation = await _want(version, previous, res)
    failed = await _outcome(activation, set(engines), res)
    if failed:
        await _want(now, stored.get("previous"), res, instead_of=activation)
        wanted = (await _stored(res)).get("wanted")
        raise ConflictError(f"{failed}; {wanted!r} goes on serving")
    return await models_now(res)


async def rollback(res: Resources) -> ModelsAnswer:
    """Activate the version that was wanted before.

    Raises:
        NotFoundError: there is none. Otherwise as `activate`.
    """
    previous = (await _stored(res)).get("previous")
    if not previous:
        raise NotFoundError("version: no model was activated before this one", field="version")
    return await activate(previous, res)


async def _want(version: str, previous: str | None, res: Resources, *, instead_of: str = "") -> str:
    """Write what is wanted, in place of one activation if it is named; the id by which engines answer."""
    activation = uuid.uuid4().hex
    await cast(
        "Awaitable[None]", res.redis.eval(_WANT, 1, res.keys.models, activation, version, previous or "", instead_of)
    )
    return activation


async def _outcome(activation: str, names: set[str], res: Resources) -> str:
    """Wait for every engine: "" if all switched, else what the first one said that did not."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        present = await _engines(res)
        answered = {name: present[name] for name in names if name in present and present[name].activation == activation}
        for name, state in answered.items():
            if state.error:
                return f"{name}: {state.error}"
        if answered and all(name in answered or name not in present for name in names):
            return ""
        if (await _stored(res)).get("activation") != activation:
            return "another version was asked for meanwhile"
        if time.monotonic() > deadline:
            raise UnavailableError(f"the engines have not switched within {WITHIN_S:g} s, and go on trying")


async def _engines(res: Resources) -> dict[str, EngineModels]:
    """What the engines that are there say."""
    names = [snapshot.engine for snapshot in await res.telemetry.present()]
    if not names:
        return {}
    raws = cast("list[str | None]", await res.redis.mget([res.keys.models_of(name) for name in names]))
    return {name: _decode(raw) for name, raw in zip(names, raws, strict=True) if raw}


async def _stored(res: Resources) -> dict[str, str]:
    return await cast("Awaitable[dict[str, str]]", res.redis.hgetall(res.keys.models))
