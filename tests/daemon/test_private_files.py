"""What the daemon writes below its state folder is its own user's alone, from the beginning."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from apex_exec.market.store import open_market
from apex_exec.registry import tables
from apex_exec.registry.database import open_database
from tests.support.daemon import Daemon, wait_for, write_plugin
from tests.support.host import Host

WRITER = '''
@plugin.hook("onActionExecute")
def act(context, params):
    print("a line for the log")
    context.api.insert("notes", {"text": "x"})
    return {"result": None, "metadata": {}}
'''


def open_to_others(folder: Path) -> dict[str, str]:
    """Everything below ``folder`` that somebody else could open, with its mode."""
    found: dict[str, str] = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # one that is written anew takes another's place
                continue
            if mode & 0o077 and not stat.S_ISLNK(mode):
                found[str(path.relative_to(folder))] = oct(stat.S_IMODE(mode))
    return found


def test_nothing_below_the_state_folder_is_open_to_others_while_it_is_written(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "writer", WRITER, permissions=("data:write",), data={"tables": ["notes"]})
    state = tmp_path / "d" / "state"
    before = os.umask(0o022)  # what most users have
    try:
        with Daemon(tmp_path / "d", plugins=tmp_path / "plugins", config={
                "data.tables": {"notes": {"owner": "user_id", "columns": ["text"], "write": True}}}) as daemon:
            with Host(daemon.endpoint) as host:
                host.invoke("writer", {})  # the gateway makes its database, with the outbox
                wait_for((state / "logs" / "writer.log").exists, 5, "the plugin's log")
            daemon.start_registrar()  # which makes its database
            wanted = {"audit.db", "registry.db", "registry.db-wal", "data.db"}
            wait_for(lambda: wanted <= {path.name for path in state.rglob("*")}, 30, "the databases")
            assert not open_to_others(state)
        assert not open_to_others(state)
    finally:
        os.umask(before)


def test_a_store_that_was_open_to_others_is_so_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        old.execute("CREATE TABLE x (y)")
        for made in tmp_path.iterdir():
            made.chmod(0o644)
        open_database(f"sqlite:///{path}", tables.SCHEMA).dispose()
        assert not open_to_others(tmp_path)


def test_a_new_store_is_private_from_its_first_byte(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        engine = open_market(f"sqlite:///{tmp_path}/market.db")
        with engine.connect():
            assert not open_to_others(tmp_path) and (tmp_path / "market.db").exists()
        engine.dispose()
    finally:
        os.umask(before)
