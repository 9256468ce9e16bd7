"""A consumer group of the event stream, made by whoever reads first."""

from __future__ import annotations

import redis


def ensure_group(client: redis.Redis, stream: str, group: str, *, start: str) -> None:
    """Make the group, and the stream if there is none; `start` is the id after which it reads ("0" or "$")."""
    if _exists(client, stream, group):  # creating it again would be refused by a Redis that is full
        return
    try:
        client.xgroup_create(stream, group, id=start, mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _exists(client: redis.Redis, stream: str, group: str) -> bool:
    try:
        groups = client.xinfo_groups(stream)
    except redis.ResponseError:  # no stream
        return False
    return group.encode() in [found["name"] for found in groups]
