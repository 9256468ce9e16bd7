"""Viewers without a browser: sessions of the board that redraw like an open tab, and time every redraw.

They speak Streamlit's websocket protocol: ask for the page, then answer each timer of a fragment by asking for that
fragment again. A redraw is timed from the asking to the last message of it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
SUBPROTOCOL = Subprotocol("streamlit")
PATIENCE_S = 60.0  # for the one redraw that a busy machine owes


@dataclass(slots=True)
class Redraws:
    """What a viewer met: seconds that each redraw took, when it began since the viewer came, exceptions shown."""

    seconds: list[float] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    exceptions: int = 0


async def watch(url: str, seconds: float, *, viewers: int = 1) -> list[Redraws]:
    """Look at the board at `url` (`http://host:port`) with so many viewers for so long, and until each saw a redraw."""
    return list(await asyncio.gather(*(_viewer(url, seconds) for _ in range(viewers))))


async def _viewer(url: str, seconds: float) -> Redraws:
    met = Redraws()
    address = url.replace("http", "ws", 1) + "/_stcore/stream"
    async with connect(address, max_size=MESSAGE_BYTES_MAX, subprotocols=[SUBPROTOCOL]) as socket:
        await socket.send(_ask())
        timers: dict[str, float] = {}
        came = time.monotonic()
        until_s = came + seconds
        while (now := time.monotonic()) < until_s or (len(met.seconds) < 2 and now < until_s + PATIENCE_S):
            began = time.monotonic()
            await _drawn(socket, timers, met)
            if timers:
                met.seconds.append(time.monotonic() - began)
                met.at_s.append(began - came)
            fragment = next(iter(timers), "")
            await asyncio.sleep(timers.get(fragment, 1.0))
            await socket.send(_ask(fragment))
    del met.seconds[:1], met.at_s[:1]  # the first drawing of the page is no redraw
    return met


def _ask(fragment: str = "") -> bytes:
    message = BackMsg()
    message.rerun_script.query_string = ""
    message.rerun_script.fragment_id = fragment
    message.rerun_script.is_auto_rerun = bool(fragment)
    return bytes(message.SerializeToString())


async def _drawn(socket: ClientConnection, timers: dict[str, float], met: Redraws) -> None:
    """Read until the script has finished."""
    while True:
        message = ForwardMsg.FromString(await socket.recv())
        kind = message.WhichOneof("type")
        if kind == "auto_rerun":
            timers[message.auto_rerun.fragment_id] = message.auto_rerun.interval
        elif kind == "delta" and message.delta.new_element.WhichOneof("type") == "exception":
            met.exceptions += 1
        elif kind == "script_finished":
            return
