"""What ``test_json.py`` walks: every verb with --json, on real daemons, in the order of an installation's life."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apex_exec.registry.bundles.bundle import pack
from tests.cli.json_walk import Walk
from tests.market.shops import PAID, write_bundle
from tests.market.test_daemon_market import PLUGIN, SUPPORT, TESTS
from tests.support.bundles import bundle, files, write_folder
from tests.support.daemon import ECHO, USER, Daemon, write_plugin
from tests.support.fleet import LocalFleet
from tests.support.wheels import make_wheel

ADMIN = ('from workers import Plugin\nplugin = Plugin(id="needy", version="{}", permissions=["admin:users"])\n'
         '@plugin.hook("onDashboardLoad")\ndef load(context):\n    context.api.call("admin.users.list")\n')
KEEPER = '''
@plugin.hook("onActionExecute")
def act(context):
    context.api.storage.set("layout", {"columns": 3})
    return {"result": None, "metadata": {}}
'''
ANOTHER = "bbbbbbbb-0000-4000-8000-00000000000b"


def walk_alone(walk: Walk, folder: Path) -> None:
    """Verbs that need no daemon."""
    walk("version")
    walk("config", "check")
    walk("billing", "quote", "sale", "19.95")
    walk("billing", "quote", "enterprise", "10000")
    walk("billing", "quote", "hosting", "--users", 12, "--from", "2026-01-15", "--to", "2026-04-01")
    write_folder(folder / "sample", files())
    walk("plugin", "pack", folder / "sample")
    walk("plugin", "new", "fresh", "--dir", folder)
    walk("keys", "new", "acme", "--state-dir", folder / "keys")
    signs = ("import sys; from pathlib import Path; from apex_exec.registry.trust.signing import load_private; "
             "sys.stdout.buffer.write(load_private(Path(sys.argv[1])).sign(sys.stdin.buffer.read()))")
    walk("keys", "signer", "hsm", "--public-key", folder / "keys" / "keys" / "acme.pub", "--state-dir", folder / "keys",
         "--", sys.executable, "-c", signs, folder / "keys" / "keys" / "acme.key")
    walk("keys", "curve", "server", "--state-dir", folder / "keys")
    walk("plugin", "sign", folder / "sample-1.0.0.apx", "--key", "acme", "--state-dir", folder / "keys")


def walk_plugins(walk: Walk, folder: Path) -> None:
    """An author, an approver, and the life of a plugin."""
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


def walk_market(walk: Walk, folder: Path) -> None:
    """A plugin is submitted, sold, supported and revoked, and its author is paid."""
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
    walk("market", "publish", number, "--by", "olga", "--percent", 25)
    walk("market", "halt", "sums", "--by", "olga", "--reason", "totals are wrong")
    walk("market", "resume", "sums", "--by", "olga", "--reason", "they are right")
    walk("market", "publish", number, "--by", "olga")
    assert walk("market", "figures", "--as", "ann")["plugins"][0]["versions"][0]["state"] == "published"
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


def walk_settings(walk: Walk, folder: Path) -> None:
    """An operator's values for a plugin, one of them a secret, and a new key for it."""
    properties = {"size": {"type": "integer", "default": 3}, "key": {"type": "string", "secret": True},
                  "page": {"type": "object", "properties": {"max_rows": {"type": "integer"}},
                           "default": {"max_rows": 9}}}
    (folder / "kept.apx").write_bytes(pack(bundle(id="kept", settings={"properties": properties})))
    (folder / "secret").write_text("sk-test-0123456789")
    walk("plugin", "install", folder / "kept.apx")
    walk("plugin", "settings", "set", "kept", "size=5", f"key=@{folder / 'secret'}")
    shown = walk("plugin", "settings", "get", "kept")
    rows = {row["name"]: row for row in shown["settings"]}
    assert {name: row["source"] for name, row in rows.items()} == {
        "size": "everybody", "key": "everybody", "page": "default"}
    assert rows["page"]["default"] == {"max_rows": 9} and list(rows["page"]["schema"]["properties"]) == ["max_rows"]
    assert walk("secrets", "rotate")["encrypted"] == 1
    walk("plugin", "settings", "unset", "kept", "size")


def walk_people(walk: Walk, folder: Path, daemon: Daemon) -> None:
    """A plugin keeps something of two people: of one it is deleted, and the other is erased everywhere."""
    walk("plugin", "install", write_plugin(folder / "people", "keeper", KEEPER,
                                         permissions=("data:read", "data:write")))
    walk("plugin", "enable", "keeper")
    for user in (USER, ANOTHER):
        daemon.client.invoke("keeper", "onActionExecute", user, {"action": "keep", "context": {}}, 60_000)
    erased = walk("plugin", "storage", "erase", "--user", USER)
    assert (erased["erased"], erased["plugins"]) == (1, ["keeper"]), erased
    assert walk("audit", "erase", "--user", ANOTHER, "--reason", "request 4711")["keptEntries"] == 1


def walk_door(walk: Walk) -> None:
    """A token of the door from its making to its end."""
    made = walk("door", "token", "new", "billing", "--user", USER, "--plugin", "sample", "--days", 30)
    assert made["token"] and made["expiresAt"]
    assert [row["name"] for row in walk("door", "token", "list")] == ["billing"]
    walk("door", "token", "revoke", "billing", "--reason", "was in a log")
    (ended,) = walk("door", "token", "list", "--all")
    assert ended["state"] == "revoked"


def walk_author(walk: Walk, folder: Path) -> None:
    """A library of an author's own folder of wheels goes into a plugin, and both ends of the protocol are tried."""
    make_wheel(folder / "wheels", "shout", "1.2", {"shout.py": "def up(text):\n    return text.upper()\n"})
    vendored = write_folder(folder / "vendored", files())
    added = walk("plugin", "add", "shout", "--dir", vendored, "--find-links", folder / "wheels", "--offline")
    assert [one["name"] for one in added["packages"]] == ["shout"]
    walk("plugin", "add", "--check", "--dir", vendored, "--find-links", folder / "wheels", "--offline")
    driver = (sys.executable, "-m", "apex_exec.conformance.driver", "sync")
    for words in (("conformance", "--only", "ids/"), ("conformance", "host", "--only", "replies/wrong", "--", *driver)):
        tried = walk(*words)
        assert tried["counts"] == {"kept": len(tried["cases"]), "broken": 0, "notTried": 0}


def walk_fleet(walk: Walk, folder: Path) -> None:
    """A fleet of one node gives its plugin away and takes it back; a second node gets its keys."""
    with LocalFleet(write_plugin(folder / "shared", "echo", ECHO).parent, 1) as fleet:
        at = ("--runtime-dir", fleet.nodes["a"].runtime)
        walk("fleet", "status", *at)
        assert [row["node"] for row in walk("fleet", "nodes", *at)] == ["a"]
        assert walk("fleet", "owner", "echo", *at)["owner"] == "a"
        walk("fleet", "drain", *at)
        walk("fleet", "rebalance", *at)
        made = walk("fleet", "keys", "b", "--endpoint", "tcp://10.0.0.2:9466", "--key", fleet.signer,
                    "--dir", folder / "pair", "--book", fleet.book)
        assert made["keyId"] == fleet.key_id and Path(made["statement"]) == fleet.book / "b.node"
