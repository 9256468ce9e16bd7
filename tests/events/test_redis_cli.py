"""The stream is a public interface: these are the commands of `docs/events.md`, typed by hand."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from recsys.state.items import ItemReader
from recsys.state.users import Remembered, UserReader

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def type_command(stream: Any) -> Any:
    binary = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if binary is None:
        pytest.skip("no redis-cli")

    def run(*words: str) -> str:
        return subprocess.run(
            [binary, "-u", stream.settings.redis.url, *words], check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    return run


def test_the_commands_of_the_documentation(stream: Any, type_command: Any) -> None:
    commands = [
        line[2:] for line in (ROOT / "docs/events.md").read_text().splitlines() if line.startswith("$ redis-cli")
    ]
    assert len(commands) >= 6
    for command in commands:
        words = subprocess.run(
            ["bash", "-c", f'for word in {command.removeprefix("redis-cli")}; do printf "%s\\0" "$word"; done'],
            check=True, capture_output=True, text=True,
        ).stdout.split("\0")[:-1]  # fmt: skip
        assert "ERR" not in type_command(*words)
    stream.settle()
    assert stream.redis.xlen(stream.keys.dead) == 0
    assert stream.stats()["applied"] == len(commands)


def test_an_entry_by_hand_is_state_within_moments(stream: Any, type_command: Any) -> None:
    before_ms = int(time.time() * 1000) - 1_000
    type_command("XADD", "recsys:events", "*", "type", "item", "item_id", "i7", "title", "Night Train",
                 "categories", '["thriller"]', "attributes", '{"year": 1998}')  # fmt: skip
    type_command("XADD", "recsys:events", "*", "type", "interaction", "user_id", "u1", "item_id", "i7", "kind", "like")
    stream.settle()
    user = stream.read(lambda client: UserReader(client, stream.keys).get_user("u1"))
    item, interactions = stream.read(lambda client: ItemReader(client, stream.keys).get_item("i7"))
    [seen] = user.history
    assert seen == Remembered("i7", "like", seen.ts)
    assert seen.ts >= before_ms
    assert (item.title, item.categories, item.attributes, interactions) == (
        "Night Train", ("thriller",), {"year": 1998}, 1,
    )  # fmt: skip
