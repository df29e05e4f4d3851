"""An author's way in JavaScript: what `plugin new` writes, and the examples, from folder to answer."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.registry.bundles.bundle import read_apx
from tests.registry.test_cli import CALL, Shell
from tests.support.daemon import EXAMPLES, USER, Daemon

OTHER = "99999999-2222-4333-8444-555555555555"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Daemon(plugins=None) as daemon:
        yield Shell(tmp_path_factory.mktemp("work"), daemon)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("language", ["js", "ts"])
def test_a_scaffold_is_valid_packed_installed_and_answers(shell: Shell, language: str) -> None:
    plugin = f"made-in-{language}"
    shell("plugin", "new", plugin, f"--{language}", "--author", "ACME Corp")
    assert shell("plugin", "validate", f"./{plugin}").endswith(": valid\n")
    shell("plugin", "pack", f"./{plugin}")
    packed = read_apx(shell.folder / f"{plugin}-0.1.0.apx")[0]
    assert ("index.js.map" in packed.files) == (language == "ts") and "index.js.map" not in packed.loaded
    shell("plugin", "install", f"{plugin}-0.1.0.apx")
    shell("plugin", "enable", plugin)
    assert f"Hello from Made In {language.title()}!" in shell("invoke", plugin, *CALL)


@pytest.mark.parametrize("hook", ["onDataFetch", "onActionExecute", "onAuthSuccess"])
@pytest.mark.slow
def test_a_scaffold_for_any_hook_is_valid(tmp_path: Path, hook: str) -> None:
    shell = Shell(tmp_path)
    for language in ("js", "ts"):
        shell("plugin", "new", f"some-{language}", f"--{language}", "--hook", hook)
        assert shell("plugin", "validate", f"./some-{language}").endswith(": valid\n")


BUILT = '''// src/plugin.ts
throw new RangeError("while it loads");
%s
//# sourceMappingURL=data:application/json,%s
'''
MAP = '{"version":3,"sources":["src/plugin.ts"],"names":[],"mappings":";AAIA,MAAM"}'


def test_a_load_that_fails_names_the_authors_source_in_validate_and_install(shell: Shell) -> None:
    shell("plugin", "new", "bad-load", "--ts")
    built = shell.folder / "bad-load" / "index.js"
    code = built.read_text().partition("//# sourceMappingURL")[0]
    built.write_text(BUILT % (code, re.sub('"', "%22", MAP)))
    place = "RangeError: while it loads (at bad-load/src/plugin.ts:5:7"
    assert place in shell("plugin", "validate", "./bad-load", status=1)
    assert place in shell.run("plugin", "install", "./bad-load").stderr


@pytest.mark.parametrize("broken", ["{", '{"version":2}', "[]"])
@pytest.mark.slow_after(1)
def test_a_broken_map_is_a_note_of_validate_and_no_more(tmp_path: Path, broken: str) -> None:
    shell = Shell(tmp_path)
    shell("plugin", "new", "bad-map", "--ts")
    (tmp_path / "bad-map" / "index.js.map").write_text(broken)
    told = json.loads(shell("plugin", "validate", "./bad-map", "--json"))
    assert told["ok"] and [note[:25] for note in told["notes"]] == ["index.js: its source map "]


def invoked(daemon: Daemon, user: str) -> dict[str, Any]:
    payload = {"action": "orders", "context": {}}
    message = {"type": "invoke", "plugin": "order-overview", "action": "onActionExecute", "userId": user,
               "payload": payload}
    return daemon.client.request(message, 8000)


def test_the_example_with_two_queries_at_once_answers_with_the_callers_rows(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "platform.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER, user_id TEXT, amount INTEGER)")
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)",
                             [(1, USER, 5), (2, USER, 7), (3, OTHER, 1000)])
    data = {"data.url": f"sqlite:///{tmp_path / 'platform.db'}",
            "data.tables": {"orders": {"owner": "user_id", "columns": ["id", "amount"]}}}
    with Daemon(plugins=EXAMPLES, config=data) as daemon:
        reply = invoked(daemon, USER)
        assert reply["result"] == {"result": {"count": 2, "total": 12, "largest": 7}, "metadata": {"shown": 2}}
        assert [effect["payload"] for effect in reply["effects"]] == [{"count": 2}]
        assert invoked(daemon, OTHER)["result"]["result"]["total"] == 1000
