"""Two and three real daemons over one real PostgreSQL: what one does all see, and what one lacks harms no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from apex_exec.client import AdminClient, CallError, Client
from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin
from tests.support.postgres import Postgres
from tests.support.way import Way

USER = "11111111-2222-4333-8444-555555555555"
SHARED = ("plugins", "versions", "approvals", "enablement", "keys", "signatures")


class Fleet:
    """Daemons on one database; each has a way to it of its own."""

    def __init__(self, server: Postgres, folder: Path, stack: ExitStack) -> None:
        self.server, self.folder, self._stack = server, folder, stack
        server.url("fleet")
        self.ways: dict[str, Way] = {}
        self.nodes: dict[str, Daemon] = {}

    def add(self, name: str, **config: Any) -> Daemon:
        way = self.ways[name] = Way(self.server.folder)
        self._stack.callback(way.close)
        url = way.url("fleet")
        node = self._stack.enter_context(Daemon(plugins=None, config={
            "registry.url": url, "market.url": url, "fleet.node": name, **config}))
        self.nodes[name] = node
        return node

    def rows(self) -> dict[str, list[Any]]:
        engine = sa.create_engine(f"postgresql+psycopg://postgres@/fleet?host={self.server.folder}")
        with engine.connect() as db:
            found = {name: sorted(map(str, db.execute(sa.text(f"SELECT * FROM {name}")))) for name in SHARED}
        engine.dispose()
        return found

    def bundle(self, plugin: str, version: str = "1.0.0") -> Path:
        return write_plugin(self.folder / version, plugin, ECHO, version=version)


@pytest.fixture
def fleet(own_postgres: Postgres, tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(own_postgres, tmp_path, stack)


def call(node: Daemon, plugin: str, user: str = USER) -> str:
    """"" if the plugin answers, else the error's code."""
    with Client(node.endpoint) as client:
        try:
            client.invoke(plugin, "onActionExecute", user, {"action": "a", "context": {"n": 1}})
        except CallError as error:
            return f"{error.code} {error.details.get('reason', '')}".strip()
    return ""


@pytest.mark.slow
def test_what_one_daemon_does_the_other_sees_and_what_one_lacks_harms_no_other(fleet: Fleet) -> None:
    one = fleet.add("one")
    one.install(fleet.bundle("shared"))
    one.install(fleet.bundle("plain"))
    before = fleet.rows()
    two = fleet.add("two")  # it has no bundle: it gets them
    three = fleet.add("three", **{"security.require_signature": "author"})
    assert fleet.rows() == before, "the start of another daemon, and of a stricter one, changes no row"
    assert call(two, "shared") == "" and call(one, "shared") == ""
    assert call(three, "shared").startswith("PLUGIN_DISABLED")
    (listed,) = [row for row in three.operate("plugin.list")["plugins"] if row["id"] == "shared"]
    assert listed["state"] == "disabled" and listed["reason"].startswith("signature_missing")
    assert {row["state"] for row in two.operate("plugin.list")["plugins"]} == {"enabled"}

    one.operate("plugin.quarantine", id="shared", reason="test")
    wait_for(lambda: call(two, "shared").startswith("PLUGIN_DISABLED"), 5, "the quarantine at the other")
    two.operate("plugin.release", id="shared")
    two.operate("plugin.enable", id="shared")
    wait_for(lambda: call(one, "shared") == "", 5, "the release at the first")
    with AdminClient(two.admin) as client:
        client.request("plugin.upgrade", {"path": str(fleet.bundle("plain", "1.1.0"))}, 180_000)
    wait_for(lambda: one.plugin("plain")["version"] == "1.1.0", 5, "the upgrade")
    assert call(one, "plain") == "" == call(two, "plain")
    one.operate("plugin.remove", id="plain")
    wait_for(lambda: call(two, "plain") == "PLUGIN_NOT_FOUND", 5, "the removal")
    two.stop()
    after = fleet.rows()
    two.start()
    assert fleet.rows() == after
