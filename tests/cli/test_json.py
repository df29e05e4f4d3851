"""What every verb says with --json: one style of keys, moments as ISO 8601, amounts beside their currency."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from apex_exec.cli.facts import AMOUNTS
from apex_exec.cli.run import run
from apex_exec.registry.bundles.bundle import pack
from tests.cli.test_framework import COMMAND, VERBS
from tests.market.shops import PAID, write_bundle
from tests.market.test_daemon_market import PLUGIN, SUPPORT, TESTS
from tests.support import need
from tests.support.bundles import bundle, files, write_folder
from tests.support.console import Console
from tests.support.daemon import USER, Daemon

WITH_JSON = {verb for verb, command in VERBS.items() if any("--json" in one.opts for one in command.params)}
FORKS = ("plugin validate", "plugin test", "doctor", "demo", "stop")
"""Verbs that fork or end the daemon: in a process of their own."""
ADMIN = ('from workers import Plugin\nplugin = Plugin(id="needy", version="{}", permissions=["admin:users"])\n'
         '@plugin.hook("onDashboardLoad")\ndef load(context):\n    context.api.call("admin.users.list")\n')
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def problems(value: Any, place: str = "$") -> Iterator[str]:
    """What is not in the style that all verbs have."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{place}.{key}"
            if re.fullmatch(r"[A-Za-z0-9]*_[A-Za-z0-9_]*", key):
                yield f"{here}: not camelCase"
            if key.endswith("Ns") or (isinstance(inner, int) and inner > 10**15):
                yield f"{here}: nanoseconds"
            if key in ("at", "from", "until") or key.endswith("At"):
                moments = inner if isinstance(inner, list) else [] if inner is None else [inner]
                yield from (f"{here}: {one!r} is no moment" for one in moments
                            if not (isinstance(one, str) and MOMENT.fullmatch(one)))
            if key in AMOUNTS and isinstance(inner, int) and "currency" not in value:
                yield f"{here}: an amount without its currency"
            if key != "value":  # a configuration's own
                yield from problems(inner, here)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from problems(inner, f"{place}[{number}]")


class Walk:
    """Runs verbs with --json and looks at what they say."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.walked: set[str] = set()
        self.wrong: list[str] = []

    def __call__(self, *arguments: object, status: int = 0) -> Any:
        words = [*map(str, arguments), "--json"]
        verb = next(" ".join(words[:end]) for end in (3, 2, 1) if " ".join(words[:end]) in VERBS)
        if verb in FORKS:
            done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120)
            code, out, err = done.returncode, done.stdout, done.stderr
        else:
            self._capsys.readouterr()
            code = run(words)
            out, err = self._capsys.readouterr()
        assert code == status, (words, code, out, err)
        told = [json.loads(line) for line in out.splitlines()]
        assert told or verb == "audit tail", (words, err)
        self.walked.add(verb)
        if verb != "audit tail":  # what was hashed, byte for byte
            self.wrong += [f"{verb}: {problem}" for value in told for problem in problems(value)]
        return told[0] if told else None


@pytest.fixture
def walk(capsys: pytest.CaptureFixture[str]) -> Walk:
    return Walk(capsys)


def test_verbs_that_need_no_daemon_have_one_style(walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _walk_alone(walk, tmp_path)
    assert not walk.wrong


def test_the_style_is_looked_at() -> None:
    bad = {"user_id": 1, "openedNs": 5, "dueAt": 3, "x": [{"fee": 5}], "seq": 10**16, "closedAt": "yesterday"}
    assert len(list(problems(bad))) == 6


def _walk_alone(walk: Walk, folder: Path) -> None:
    walk("version")
    walk("config", "check")
    walk("billing", "quote", "sale", "19.95")
    walk("billing", "quote", "enterprise", "10000")
    walk("billing", "quote", "hosting", "--users", 12, "--from", "2026-01-15", "--to", "2026-04-01")
    write_folder(folder / "sample", files())
    walk("plugin", "pack", folder / "sample")
    walk("plugin", "new", "fresh", "--dir", folder)
    walk("keys", "new", "acme", "--state-dir", folder / "keys")
    walk("keys", "curve", "server", "--state-dir", folder / "keys")
    walk("plugin", "sign", folder / "sample-1.0.0.apx", "--key", "acme", "--state-dir", folder / "keys")


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_every_verb_has_one_style_of_keys_moments_and_amounts(
        walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(find_spec("coverage"), "coverage is not installed")
    monkeypatch.chdir(tmp_path)
    _walk_alone(walk, tmp_path)
    with Daemon(plugins=None) as daemon:
        monkeypatch.setenv("APEX_EXEC_RUNTIME_DIR", str(daemon.runtime))
        monkeypatch.setenv("APEX_EXEC_STATE_DIR", str(daemon.state))
        _walk_plugins(walk, tmp_path)
        _walk_market(walk, tmp_path)
        for verb in ("status", "top", "doctor", "demo", "audit tail", "audit verify"):
            walk(*verb.split())
        now = time.gmtime()
        walk("audit", "report", "--quarter", f"{now.tm_year}Q{(now.tm_mon + 2) // 3}")
        for words in ("reload", "drain", "undrain", "audit accept --reason x"):
            walk(*words.split())
        with Console(daemon):
            walk("console", "link", "anna")
            walk("console", "sessions")
            walk("console", "end", "anna")
        walk("backup", tmp_path / "monday")
        walk("stop")
    walk("restore", tmp_path / "monday", "--state-dir", tmp_path / "restored")
    assert not walk.wrong, "\n".join(walk.wrong)
    assert walk.walked == WITH_JSON


def _walk_plugins(walk: Walk, folder: Path) -> None:
    for name in ("ann", "bob"):
        walk("keys", "new", name)
        walk("keys", "register", name, "--role", "approver" if name == "bob" else "author")
    walk("keys", "list")
    for number, text in (("1.0.0", "hello"), ("1.1.0", "new")):
        (folder / f"{number}.apx").write_bytes(pack(bundle(text, version=number)))
    walk("plugin", "install", folder / "1.0.0.apx")
    walk("plugin", "enable", "sample")
    walk("restart", "sample")
    walk("breaker", "reset", "sample")
    walk("plugin", "upgrade", folder / "1.1.0.apx")
    walk("plugin", "rollback", "sample")
    walk("plugin", "verify", "sample")
    walk("plugin", "quarantine", "sample", "--reason", "x")
    walk("plugin", "release", "sample")
    walk("plugin", "disable", "sample")
    walk("plugin", "validate", folder / "sample")
    walk("plugin", "test", folder / "sample")
    for number, decision in (("1.0.0", "approve"), ("1.1.0", "deny")):
        (folder / "needy.apx").write_bytes(pack(bundle(id="needy", version=number, permissions=["admin:users"],
                                                       code=ADMIN.format(number))))
        walk("plugin", "install" if decision == "approve" else "upgrade", folder / "needy.apx")
        walk("plugin", decision, "needy", "admin:users", "--key", "bob", "--reason", "y")
    walk("plugin", "revoke", "needy", "admin:users", "--key", "bob", "--reason", "z", "--version", "1.0.0")
    walk("plugin", "show", "needy")
    walk("plugin", "list")
    walk("plugin", "remove", "needy")


def _walk_market(walk: Walk, folder: Path) -> None:
    tests = TESTS + b"\n\ndef test_none():\n    assert total({'filters': {}}) == {'transformedData': 0}\n"
    place = write_bundle(folder / "sums", {"plugin.py": PLUGIN, "tests/test_sums.py": tests}, pricing=PAID,
                         support=SUPPORT)
    shown = walk("market", "submit", place, "--as", "ann")
    number, digest = shown["id"], shown["digest"]
    walk("market", "review")
    walk("market", "review", number, "--reviewer", "bob")
    walk("market", "approve", number, "--reviewer", "bob", "--digest", digest, "--confirm-all", "--reason", "good",
         "--key", "bob")
    walk("market", "status", number)
    walk("market", "status")
    walk("market", "publish", number, "--by", "olga")
    walk("market", "search", "sums")
    walk("market", "show", "sums")
    walk("market", "customer", USER, "initech")
    walk("market", "buy", "sums", "--user", USER, "--key", "k1")
    walk("market", "ticket", "open", "sums", "--user", USER, "--subject", "no totals")
    walk("market", "ticket", "respond", 1, "--by", "ann")
    walk("market", "ticket", "close", 1)
    walk("market", "ticket", "list")
    walk("market", "report")
    walk("market", "clock")
    walk("billing", "enterprise", "10000", "--customer", "Initech", "--title", "Forecast")
    walk("billing", "report", "--month", f"{datetime.now(UTC):%Y-%m}")
    walk("billing", "status", walk("billing", "status")[0]["operation"])
    walk("market", "entitle", "sums", "--user", USER, "--until", "2099-01-31", "-o", folder / "entitlement.json")
    walk("market", "refund", "k1", "--reason", "did not help")
    before = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    walk("billing", "close", "--month", f"{before:%Y-%m}")
    other = write_bundle(folder / "other", {"plugin.py": PLUGIN.replace(b"1.0.0", b"1.1.0"),
                                            "tests/test_sums.py": tests}, pricing=PAID, support=SUPPORT,
                         version="1.1.0")
    second = walk("market", "submit", other, "--as", "ann")
    walk("market", "review", second["id"], "--reviewer", "bob")
    walk("market", "reject", second["id"], "--reviewer", "bob", "--reason", "no", "--key", "bob")
    walk("market", "revoke", "sums", "--by", "olga", "--reason", "leaks data")
    walk("keys", "revoke", "ann", "--reason", "lost")
