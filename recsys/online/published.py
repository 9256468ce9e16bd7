"""Versions that the learner made: folders beside the model it started from, and what engines are asked to serve."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import cast

import redis

from recsys.config import Settings
from recsys.engine.served import folder_of
from recsys.model.recommender import Recommender
from recsys.state.keys import Keys

MARK = "-online-"  # stands in the version and in the folder's name: only such folders are ever removed

# Only if nobody asked for another version meanwhile.
_ASK = """
local wanted = redis.call('HGET', KEYS[1], 'wanted') or ''
if wanted ~= '' and wanted ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'activation', ARGV[2], 'wanted', ARGV[3], 'previous', ARGV[1])
return 1
"""

# Only while it is still the newest thing that was asked for.
_WITHDRAW = """
if redis.call('HGET', KEYS[1], 'activation') ~= ARGV[1] then return end
redis.call('HSET', KEYS[1], 'activation', ARGV[2], 'wanted', ARGV[3])
redis.call('HDEL', KEYS[1], 'previous')
"""


class Published:
    """Publishes and follows versions.

    Args:
        client: replies are bytes.
    """

    def __init__(self, settings: Settings, client: redis.Redis, keys: Keys) -> None:
        self._settings = settings
        self._client = client
        self._keys = keys
        self._ask = client.register_script(_ASK)
        self._withdraw = client.register_script(_WITHDRAW)
        self._asked: tuple[str, str] | None = None  # id of the newest call, and what was served before it

    def wanted(self) -> str:
        """The version that engines should serve; "" if nobody asked for one since Redis was empty."""
        return (cast("bytes | None", self._client.hget(self._keys.models, "wanted")) or b"").decode()

    def load(self, version: str) -> Recommender:
        """A version, or what engines begin with for "".

        Raises:
            ModelFolderError: there is no such version, or it is broken.
        """
        if not version:
            return Recommender.from_pretrained(self._settings.engine.model_dir)
        return Recommender.from_pretrained(folder_of(version, self._settings))

    def next_version(self, version: str) -> str:
        """A name that no version has had, not even one that was rolled back."""
        base = version.partition(MARK)[0]
        numbers = [int(path.name.partition(MARK)[2]) for path in self._made()]
        return f"{base}{MARK}{max(numbers, default=0) + 1:06d}"

    def publish(self, model: Recommender, before: str) -> bool:
        """Write the folder, ask engines to serve it, and remove old ones; `before` is what a rollback brings.

        False if another version was activated meanwhile, which then stays.
        """
        model.save_pretrained(self._folder() / model.version)
        activation = uuid.uuid4().hex
        asked = bool(self._ask(keys=[self._keys.models], args=[before, activation, model.version]))
        self._asked = (activation, before) if asked else None
        stored = cast("list[bytes | None]", self._client.hmget(self._keys.models, "wanted", "previous"))
        self._remove_old(keep={model.version, before, *(name.decode() for name in stored if name)})
        return asked

    def withdraw_refused(self) -> str:
        """Ask for the version before again if an engine cannot serve the newest; what it says, else ""."""
        if self._asked is None:
            return ""
        activation, before = self._asked
        stored = cast("list[bytes | None]", self._client.hmget(self._keys.models, "refused", "why"))
        refused, why = ((value or b"").decode() for value in stored)
        if refused != activation:
            return ""
        self._withdraw(keys=[self._keys.models], args=[activation, uuid.uuid4().hex, before])
        self._asked = None
        return why

    def _remove_old(self, keep: set[str]) -> None:
        for folder in self._made()[: -self._settings.online.versions_kept]:
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)
        for draft in self._folder().glob(f".*{MARK}[0-9]*"):  # of a learner that was killed while it wrote
            shutil.rmtree(draft, ignore_errors=True)

    def _made(self) -> list[Path]:
        """Folders of learned versions, oldest first."""
        named = ((path.name.partition(MARK), path) for path in self._folder().glob(f"[!.]*{MARK}*"))
        return [path for _, path in sorted((int(n), path) for (_, _, n), path in named if n.isdecimal())]

    def _folder(self) -> Path:
        return self._settings.engine.models_dir or self._settings.engine.model_dir.parent
