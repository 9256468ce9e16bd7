"""`python -m recsys.stack.probe api|engine|worker|learner`: exit code 0 if that process of this machine does its work.

For health checks of containers. The engine is asked over its own socket and must be ready; worker and learner must have
read from the stream a moment ago, which needs Redis too; the API must answer, with or without an engine behind it.
"""

from __future__ import annotations

import math
import sys
import urllib.request
from collections.abc import Callable

from recsys.config import Settings

TIMEOUT_S = 3.0
READS_MISSED = 10  # blocking reads of the stream that a worker in good health may miss, while it applies a batch


def probe_api(settings: Settings) -> str:
    """What is wrong with the API on this machine; empty if nothing."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the environment names
    with direct.open(f"http://127.0.0.1:{settings.api.port}/healthz", timeout=TIMEOUT_S) as answer:
        return "" if answer.status == 200 else f"/healthz says {answer.status}"


def probe_engine(settings: Settings) -> str:
    """What is wrong with the engine at the endpoint; empty if it is ready to rank."""
    import zmq

    from recsys.wire import Ping, Pong, decode_from_engine, encode

    endpoint = settings.engine.own_endpoint.replace("//0.0.0.0:", "//127.0.0.1:").replace("//*:", "//127.0.0.1:")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        asking = context.socket(zmq.DEALER)
        asking.connect(endpoint)
        asking.send(encode([Ping(0)]))
        if not asking.poll(int(TIMEOUT_S * 1e3)):
            return f"{endpoint}: no answer within {TIMEOUT_S:g} s"
        answers, _ = decode_from_engine(asking.recv())
        ready = any(isinstance(answer, Pong) and answer.ready for answer in answers)
        return "" if ready else f"{endpoint}: not ready, it waits for a catalogue"
    finally:
        context.destroy(linger=0)


def probe_worker(settings: Settings) -> str:
    """What is wrong with the worker, or the learner, of this host; empty if Redis sees it read from the stream."""
    from recsys.state.client import writer

    idle_max_s = math.ceil(settings.events.block_ms * READS_MISSED / 1e3)
    with writer(settings.redis) as client:
        host = str(client.client_info()["addr"]).rpartition(":")[0]
        peers = [peer for peer in client.client_list() if peer["addr"].rpartition(":")[0] == host]
    idle_s = [int(peer["idle"]) for peer in peers if peer["cmd"].startswith("xreadgroup")]
    if not idle_s:
        return f"Redis sees nobody at {host} who reads from a stream"
    return "" if min(idle_s) <= idle_max_s else f"last read {min(idle_s)} s ago, more than {idle_max_s} s"


PROBES: dict[str, Callable[[Settings], str]] = {
    "api": probe_api,
    "engine": probe_engine,
    "worker": probe_worker,
    "learner": probe_worker,  # reads the same stream
}


def main(arguments: list[str]) -> int:
    """0 healthy, 1 not (and why, on standard error), 2 wrong use."""
    if len(arguments) != 1 or arguments[0] not in PROBES:
        sys.stderr.write(f"usage: python -m recsys.stack.probe {'|'.join(PROBES)}\n")
        return 2
    try:
        wrong = PROBES[arguments[0]](Settings())
    except Exception as error:  # a supervisor wants a reason, whatever it was
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        sys.stderr.write(f"{arguments[0]}: {wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
