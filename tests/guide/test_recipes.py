"""Ten recipes: each goes from `plugin new` to an answer by the commands that the guide names, twelve at most."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from apex_exec.errors import Refusal
from apex_exec.market.review.readme import readme_problems
from apex_exec.registry.bundles.bundle import read_folder
from apex_exec.registry.bundles.manifest import check_manifest
from apex_exec.registry.bundles.recipes import FOLDER, next_commands, recipes, write_recipe
from apex_exec.registry.bundles.scaffold import scaffold_readme
from apex_exec.registry.vendored.lock import LOCK_NAME, read_lock
from tests.gateway.test_fetch import certified
from tests.registry.test_cli import Shell
from tests.support import need
from tests.support.daemon import ROOT, USER, Daemon

COMMANDS_MAX = 12
KEY = "rates-key-0123456789"
TABLES = {
    "sessions": ["id", "country", "device"], "sales": ["product", "amount"], "visits": ["day", "count"]}
ROWS = (f"INSERT INTO sessions VALUES ('{USER}', 's1', 'DE', 'laptop')",
        f"INSERT INTO sales VALUES ('{USER}', 'Tea', 12.5), ('{USER}', 'Tea', 1.5), ('{USER}', 'Milk', 2)",
        f"INSERT INTO visits VALUES ('{USER}', '2026-01-01', 4), ('{USER}', '2026-01-02', 2)")
DAYS = {"labels": ["2026-01-01", "2026-01-02"],
        "series": [{"name": "Visits", "points": [4, 2]}, {"name": "Average of 7 days", "points": [4, 3]}]}
ANSWERS: dict[str, Any] = {
    "csv-pivot": {"columns": ["Jan"], "rows": [{"name": "north", "cells": ["0.3"]}]},
    "pii-masker": ["a***@example.org, ************1111"],
    "currency-rates": {"amount": "13.56", "rate": "1.085", "base": "EUR", "stale": False},
    "login-anomaly": None,
    "trend-chart": [{"id": "visits", "component": "LineChart", "props": DAYS}],
    "markdown-notes": {"html": "<p><em>Hello</em></p>\n"},
    "workdays": {"date": "2026-12-28"},
    "monthly-report": {"html": "<h1>May</h1>\n<table>\n  <tr><td>A</td><td>12.50</td></tr>\n"
                               "  <tr><th>Total</th><th>12.50</th></tr>\n</table>"},
    "checked-form": {"ok": False, "errors": {"zip": "must match pattern ^[0-9]{4,5}$"}},
    "sales-widget": [{"id": "best-sellers", "component": "Table", "props": {
        "rows": [{"product": "Tea", "total": 14, "sold": 2}, {"product": "Milk", "total": 2, "sold": 1}],
        "unread": 0}}],
}
"""What each answers to the call that its README shows."""
VENDORED = [name for name in recipes() if (FOLDER / name / LOCK_NAME).exists()]
FROM_NPM = [name for name in recipes() if (FOLDER / name / "package.json").exists()]


class Rates(BaseHTTPRequestHandler):
    """The service that currency-rates asks. It answers those who know the key."""

    def do_GET(self) -> None:
        """The rates."""
        known = self.headers["Authorization"] == f"Bearer {KEY}"
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"rates": {"USD": 1.085}}' if known else b"{}")

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of the rates' service, and its certificate."""
    certificate = certified(tmp_path_factory.mktemp("rates"), "rates.localhost")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rates)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], certificate
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, service: tuple[int, Path]) -> Iterator[Shell]:
    port, certificate = service
    folder = tmp_path_factory.mktemp("recipes")
    with sqlite3.connect(folder / "data.db") as database:
        for table, columns in TABLES.items():
            kinds = ", ".join(f"{name} {'numeric' if name in ('amount', 'count') else 'text'}" for name in columns)
            database.execute(f"CREATE TABLE {table} (user_id text, {kinds})")
        for row in ROWS:
            database.execute(row)
    database.close()
    config = {"security.require_signature": "author", "data.url": f"sqlite:///{folder}/data.db",
              "data.tables": {name: {"owner": "user_id", "columns": columns} for name, columns in TABLES.items()},
              "fetch.allow": [f"rates.localhost:{port}"], "fetch.allow_private": True,
              "fetch.ca_file": str(certificate), "limits.timeout_ms": 60_000}
    with Daemon(plugins=None, config=config) as daemon:
        yield Shell(folder, daemon)


def go(shell: Shell, recipe: str, port: int) -> tuple[dict[str, Any], int, str]:
    """The whole way of one recipe. Returns the reply, the number of commands, and what `plugin test` said."""
    mine, typed = f"my-{recipe}", 0

    def type_(*words: object) -> str:
        nonlocal typed
        typed += 1
        return shell(*words)

    type_("plugin", "new", mine, "--recipe", recipe, "--author", "ACME Corp")
    for command in next_commands(shell.folder / mine)[:-1]:
        words = shlex.split(command)
        if words[0] == "apex-exec":
            fetched = shell.run(*words[1:])
            need("cannot be reached" not in fetched.stderr, "an index of PyPI")
            assert fetched.returncode == 0, fetched.stderr
        else:
            done = subprocess.run(words, cwd=shell.folder, capture_output=True, text=True, timeout=500)
            need("ENOTFOUND" not in done.stderr, "a registry of npm")
            assert done.returncode == 0, done.stdout + done.stderr
        typed += 1
    if recipe == "currency-rates":  # its own service, as an author would point it to one
        for name in ("plugin.py", "manifest.json"):
            path = shell.folder / mine / name
            at = f"rates.localhost:{port}" if name == "plugin.py" else "rates.localhost"
            path.write_text(path.read_text().replace("rates.example.com", at))
    tested = type_("plugin", "test", f"./{mine}")
    assert type_("plugin", "validate", f"./{mine}").endswith(": valid\n")
    type_("keys", "new", f"key-{recipe}")
    type_("keys", "register", f"key-{recipe}")
    type_("plugin", "pack", f"./{mine}")
    type_("plugin", "sign", f"{mine}-0.1.0.apx", "--key", f"key-{recipe}")
    type_("plugin", "install", f"{mine}-0.1.0.apx")
    if recipe == "currency-rates":
        (shell.folder / "rates.key").write_text(KEY)
        type_("plugin", "settings", "set", mine, "apiKey=@rates.key")
    type_("plugin", "enable", mine)
    return json.loads(type_(*shown_call(shell.folder / mine))), typed, tested


def shown_call(folder: Path) -> list[str]:
    """The call that the plugin's README shows."""
    lines = re.findall(r"^apex-exec (invoke .+)$", (folder / "README.md").read_text("utf-8"), re.M)
    return shlex.split(lines[0])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("recipe", [
    *(name for name in ANSWERS if name not in (*VENDORED, *FROM_NPM)),
    *(pytest.param(name, marks=pytest.mark.system) for name in (*VENDORED, *FROM_NPM))])
def test_a_recipe_goes_from_new_to_an_answer_in_twelve_commands(shell: Shell, service: tuple[int, Path],
                                                                recipe: str) -> None:
    reply, typed, tested = go(shell, recipe, service[0])
    result = reply["result"] or {}
    assert next((result[key] for key in ("result", "transformedData", "customWidgets") if key in result), None) == (
        ANSWERS[recipe])
    assert typed <= COMMANDS_MAX
    coverage = re.search(r"coverage ([\d.]+) %", tested)
    assert " 0 failed" in tested and coverage is not None
    if recipe not in FROM_NPM:  # there the packages count, too, unless the platform has built them itself
        assert float(coverage[1]) >= 70


@pytest.mark.slow
def test_a_second_login_from_elsewhere_is_reported(shell: Shell, service: tuple[int, Path]) -> None:
    go(shell, "login-anomaly", service[0]) if not (shell.folder / "my-login-anomaly").exists() else None
    call = shown_call(shell.folder / "my-login-anomaly")
    assert json.loads(shell(*call))["effects"] == []
    with sqlite3.connect(shell.folder / "data.db") as database:
        database.execute("UPDATE sessions SET country = 'BR'")
    database.close()
    (effect,) = json.loads(shell(*call))["effects"]
    assert effect["event"] == "my-login-anomaly/login.anomaly" and effect["payload"]["reasons"] == ["new country"]


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_is_a_whole_plugin_under_its_authors_id(tmp_path: Path, recipe: str) -> None:
    folder = write_recipe(tmp_path, "acme-one", "ACME Corp", recipe)
    manifest, problems = check_manifest((folder / "manifest.json").read_bytes())
    assert not problems and manifest is not None and (manifest.id, manifest.author) == ("acme-one", "ACME Corp")
    readme = (folder / "README.md").read_bytes()
    assert not readme_problems(readme, scaffold_readme("acme-one"))
    assert shown_call(folder)[:3] == ["invoke", "acme-one", manifest.manifest.hooks[0]]
    texts = {path: path.read_text("utf-8") for path in folder.rglob("*")
             if path.is_file() and "types" not in path.parts}
    assert not [path for path, text in texts.items() if re.search(rf"(?<![\w-]){recipe}(?![\w-])", text)]
    if recipe in VENDORED:
        lock = read_lock({LOCK_NAME: (folder / LOCK_NAME).read_bytes()})
        assert lock is not None and list(lock.requires) == list(manifest.dependencies)
    elif recipe not in FROM_NPM:
        assert read_folder(folder).manifest.id == "acme-one"


@pytest.mark.parametrize("name", ["a\\1b", "\\g<x>", "../up"])
def test_a_name_that_is_no_id_is_refused_and_not_read_as_a_pattern(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal) as refused:
        write_recipe(tmp_path / "here", name, "ACME Corp", "workdays")
    assert refused.value.reason == "bad_id" and not list(tmp_path.iterdir())


def test_no_recipe_carries_what_others_have_written() -> None:
    assert not [path for path in FOLDER.rglob("*") if path.name in ("vendor", "node_modules", "types", "index.js.map")]
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc") < 80_000


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("recipe", [name for name in ANSWERS if name not in (*VENDORED, *FROM_NPM, "trend-chart")])
def test_a_recipe_passes_its_own_tests_by_plain_pytest(tmp_path: Path, recipe: str) -> None:
    folder = write_recipe(tmp_path, recipe, "tests", recipe)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
                          cwd=folder, capture_output=True, text=True, timeout=100,
                          env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stdout
