"""Hooks that an operator declares in the configuration, on real daemons."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.testing.configuration import to_toml
from tests.support.daemon import ROOT, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host

INVOICE = {"type": "object", "properties": {"total": {"type": "integer", "minimum": 0}}, "required": ["total"]}
HOOKS: dict[str, Any] = {
    "hooks.onInvoiceCreated": {
        "mode": "chain",
        "params": {"type": "object", "required": ["invoice"], "properties": {
            "invoice": INVOICE, "userId": {"type": "string"}}},
        "result": {"type": "object", "required": ["invoice"], "properties": {
            "invoice": INVOICE, "notes": {"type": "array", "items": {"type": "string"}}}}},
    "hooks.onShip": {
        "mode": "first", "default": 5, "result": {"type": ["integer", "null"], "minimum": 1},
        "params": {"type": "object", "additionalProperties": False, "required": ["to"], "properties": {
            "to": {"enum": ["near", "far"]}, "wrong": {"type": "boolean"}}}},
    "hooks.onPoll": {"mode": "all", "result": {"type": "array", "items": {"type": "integer"}}},
    "hooks.onSeen": {"mode": "all", "void": True},
}
CODE = '''
@plugin.hook("onInvoiceCreated")
def invoice(params):
    return {"invoice": {"total": params["invoice"]["total"] + 1}, "notes": ["one more"]}

@plugin.hook("onShip")
def ship(context, params):
    if params.get("wrong"):
        return 0
    return 7 if context.plugin_id == "second" and params["to"] == "far" else None

@plugin.hook("onPoll")
def poll(context, params):
    found = list(range(params.get("count", 1)))
    return found + ["x"] if params.get("wrong") else found

@plugin.hook("onSeen")
def seen(params):
    return None if "quiet" in params else 1
'''
NAMES = tuple(key.removeprefix("hooks.") for key in HOOKS)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    plugins = tmp_path_factory.mktemp("plugins")
    for plugin in ("first", "second"):
        write_plugin(plugins, plugin, CODE, NAMES)
    with Daemon(plugins=plugins, config=HOOKS) as daemon, Host(daemon.endpoint) as host:
        yield host


def ask(host: Host, action: str, payload: dict[str, Any], plugin: str = "") -> dict[str, Any]:
    where = {"type": "invoke", "plugin": plugin} if plugin else {"type": "dispatch"}
    return host.ask({**where, "action": action, "userId": USER, "payload": payload})


def test_hello_lists_declared_hooks_behind_the_built_in_ones(host: Host) -> None:
    assert tuple(host.ask({"type": "hello", "protocol": [1]})["hooks"][4:]) == NAMES


def test_a_chain_gives_each_plugin_what_the_last_one_left(host: Host) -> None:
    reply = ask(host, "onInvoiceCreated", {"invoice": {"total": 1}})
    assert reply["result"] == {"invoice": {"total": 3}} and not reply["partial"]
    assert reply["outcomes"][0]["result"] == {"invoice": {"total": 2}, "notes": ["one more"]}


def test_the_first_answer_ends_a_dispatch_and_nobodys_is_the_default(host: Host) -> None:
    assert ask(host, "onShip", {"to": "far"})["result"] == 7
    assert ask(host, "onShip", {"to": "near"})["result"] == 5


def test_all_at_once_is_answered_with_every_result_or_null_if_void(host: Host) -> None:
    assert ask(host, "onPoll", {"count": 2})["result"] == [[0, 1], [0, 1]]
    seen = ask(host, "onSeen", {"quiet": True})
    assert seen["result"] is None and not seen["partial"]


def test_a_result_that_does_not_fit_is_invalid_output_with_its_path(host: Host) -> None:
    for action, payload, path in (("onShip", {"to": "near", "wrong": True}, "$"), ("onSeen", {}, "$"),
                                  ("onPoll", {"wrong": True}, "$[1]")):
        reply = ask(host, action, payload, "first")
        assert (reply["code"], reply["details"]["path"]) == ("INVALID_OUTPUT", path), reply


def test_a_large_result_is_checked_beside_the_loop_by_the_same_schema(host: Host) -> None:
    good = ask(host, "onPoll", {"count": 20_000}, "second")
    assert len(good["result"]) == 20_000 and good["usage"]["hostCpuMs"] > 0
    wrong = ask(host, "onPoll", {"count": 20_000, "wrong": True}, "second")
    assert (wrong["code"], wrong["details"]["path"]) == ("INVALID_OUTPUT", "$[20000]")


def test_params_that_do_not_fit_are_the_hosts_invalid_input_and_nothing_runs(host: Host) -> None:
    other = "99999999-2222-4333-8444-555555555555"
    for action, payload, path in (
            ("onShip", {"to": "elsewhere"}, "$.payload.to"), ("onShip", {}, "$.payload"),
            ("onShip", {"to": "far", "more": 1}, "$.payload"),
            ("onInvoiceCreated", {"invoice": {"total": -1}}, "$.payload.invoice.total"),
            ("onInvoiceCreated", {"invoice": {"total": 1}, "userId": other}, "$.payload.userId")):
        for plugin in ("first", ""):
            reply = ask(host, action, payload, plugin)
            assert (reply["code"], reply["details"]["path"]) == ("INVALID_INPUT", path), reply


def test_a_hook_that_nobody_declared_is_refused_as_ever(host: Host) -> None:
    assert ask(host, "onNothing", {}, "first")["code"] == "HOOK_NOT_DECLARED"
    reply = ask(host, "onNothing", {})
    assert (reply["code"], reply["details"]["path"]) == ("INVALID_INPUT", "$.action")


def test_a_plugin_cannot_declare_a_hook_and_a_reload_leaves_the_hooks_as_they_are(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "own", '@plugin.hook("onOwn")\ndef own():\n    pass\n', ("onOwn",))
    write_plugin(tmp_path / "plugins", "poll", CODE, NAMES)
    with Daemon(plugins=tmp_path / "plugins", config=HOOKS) as daemon, Host(daemon.endpoint) as host:
        assert "'onOwn' is not a hook" in daemon.log
        assert [one["id"] for one in host.ask({"type": "plugins"})["plugins"]] == ["poll"]
        void = {"mode": "all", "void": True}
        daemon.write_config({"hooks.onOwn": void, "hooks.onPoll": void})
        assert daemon.operate("daemon.reload") == {"applied": [], "restart": ["hooks"]}
        assert ask(host, "onPoll", {}, "poll")["result"] == [0], "what was declared at the start goes on"
        assert "onOwn" not in host.ask({"type": "hello", "protocol": [1]})["hooks"]
        daemon.stop()
        daemon.start()
        wait_for(lambda: len(host.ask({"type": "plugins"})["plugins"]) == 2, 10)
        assert ask(host, "onPoll", {}, "poll")["code"] == "INVALID_OUTPUT", "it is void now"


def run(folder: Path, *arguments: str, status: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "apex_exec", *arguments], cwd=folder, capture_output=True, text=True,
                          timeout=120, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)})
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_an_authors_tools_know_declared_hooks_by_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(to_toml(HOOKS))
    assert "onInvoiceCreated" in run(tmp_path, "config", "check", "c.toml")
    assert "there is no hook 'onShip'" in run(tmp_path, "plugin", "new", "shipper", "--hook", "onShip", status=1)
    run(tmp_path, "plugin", "new", "shipper", "--hook", "onShip", "--config", "c.toml")
    assert run(tmp_path, "plugin", "validate", "shipper/", "--config", "c.toml").endswith(": valid\n")
    assert "'onShip' is not a hook" in run(tmp_path, "plugin", "validate", "shipper/", status=1)
    assert "onShip: { to: \"near\" | \"far\"; wrong?: boolean };" in run(
        tmp_path, "schema", "--typescript", "--config", "c.toml")


@pytest.mark.slow
@pytest.mark.parametrize("hook", NAMES)
def test_a_scaffold_for_a_declared_hook_passes_its_own_test_and_is_installed(hook: str, tmp_path: Path) -> None:
    with Daemon(plugins=None, config=HOOKS) as daemon, Host(daemon.endpoint) as host:
        config = ("--config", str(daemon.config_file))
        run(tmp_path, "plugin", "new", "mine", "--hook", hook, *config)
        assert "1 passed, 0 failed" in run(tmp_path, "plugin", "test", "mine/", *config)
        run(tmp_path, "plugin", "pack", "mine/", *config)
        run(tmp_path, "plugin", "install", "./mine-0.1.0.apx", *config)
        run(tmp_path, "plugin", "enable", "mine", *config)
        assert "answered in" in run(tmp_path, "plugin", "verify", "mine", *config), "a trial call, with its sample"
        wait_for(lambda: host.ask({"type": "plugins"})["plugins"], 10)


@pytest.mark.slow
def test_a_plugin_whose_hook_is_declared_no_longer_is_disabled_with_that_reason(tmp_path: Path) -> None:
    with Daemon(plugins=None, config=HOOKS) as daemon, Host(daemon.endpoint) as host:
        config = ("--config", str(daemon.config_file))
        run(tmp_path, "plugin", "new", "mine", "--hook", "onPoll", *config)
        run(tmp_path, "plugin", "install", "./mine", *config)
        run(tmp_path, "plugin", "enable", "mine", *config)
        wait_for(lambda: host.ask({"type": "plugins"})["plugins"], 10)
        daemon.stop()
        del daemon.config["hooks.onPoll"]
        daemon.write_config({})
        daemon.start()
        (row,) = daemon.operate("plugin.list")["plugins"]
        assert (row["state"], row["reason"]) == ("disabled", "manifest_invalid: 'onPoll' is not a hook")
        assert ask(host, "onPoll", {}, "mine")["code"] == "PLUGIN_NOT_FOUND"
