"""Settings and secrets of plugins on a real daemon: set by an operator, had by the next call, gone from everything that
is written down."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError
from apex_exec.testing import Daemon
from tests.support.daemon import wait_for

A, B = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
SECRET, TOKEN = "sk-live-0123456789abcdef", "tok-9876543210-zyxwvu"
SETTINGS = {"properties": {
    "region": {"type": "string", "enum": ["eu", "us"], "default": "eu", "title": "Region"},
    "limits": {"type": "array", "items": {"type": "integer"}, "maxItems": 5},
    "apiKey": {"type": "string", "secret": True},
    "token": {"type": "string", "secret": True,
              "fetch": {"header": "Authorization", "value": "Bearer {secret}", "hosts": ["localhost.test"]}}}}

PYTHON = '''
from workers import Plugin

plugin = Plugin(id="set", version="1.0.0", permissions=["ui:render", "events:emit", "network:fetch"])


@plugin.hook("onActionExecute")
def run(context, params):
    wanted, settings, result = params["action"], context.settings, None
    if wanted == "read":
        result = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()
                  if key != "apiKey"}
        result["knows"] = "apiKey" in settings
    elif wanted == "change":
        try:
            settings["region"] = "us"
        except TypeError as error:
            result = str(error)
    elif wanted == "print":
        print("the key is", settings["apiKey"], "!")
    elif wanted == "raise":
        raise ValueError("no answer for " + settings["apiKey"])
    elif wanted == "return":
        result = ["x" + settings["apiKey"]]
    elif wanted == "emit":
        context.api.emit("said", {"key": "the key is " + settings["apiKey"]})
    return {"result": result, "metadata": {}}
'''

JAVASCRIPT = '''
export default { id: "jet", version: "1.0.0", permissions: [], hooks: {
  onActionExecute({ settings, params }) {
    let changed = false;
    try { settings.region = "us"; settings.limits.push(1) } catch { changed = "refused" }
    return { result: { ...settings, changed }, metadata: {} };
  } } };
'''


def manifest(id_: str, entrypoint: str, permissions: list[str], settings: Any = SETTINGS) -> bytes:
    return json.dumps({
        "id": id_, "name": id_, "version": "1.0.0", "author": "tests", "permissions": permissions,
        "manifest": {"entrypoint": entrypoint, "hooks": ["onActionExecute"]},
        "network": {"allow": ["localhost.test"]}, "settings": settings}).encode()


def put(daemon: Daemon) -> None:
    daemon.put_files("set", {
        "manifest.json": manifest("set", "plugin.py", ["ui:render", "events:emit", "network:fetch"]),
        "plugin.py": PYTHON.encode()})
    wide = {"properties": {name: {"type": "string"} for name in ("first", "second")}}
    daemon.put_files("wide", {"manifest.json": manifest("wide", "index.js", [], wide),
                              "index.js": JAVASCRIPT.replace('"jet"', '"wide"').encode()})
    daemon.put_files("jet", {"manifest.json": manifest("jet", "index.js", []), "index.js": JAVASCRIPT.encode()})


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    running = Daemon(config={"audit.min_free_bytes": 0})
    put(running)
    with running:
        yield running


def act(daemon: Daemon, action: str, user: str = A, plugin: str = "set") -> Any:
    return daemon.invoke(plugin, "onActionExecute", {"action": action, "context": {}}, user, 60_000)["result"]


def operate(daemon: Daemon, op: str, /, **args: Any) -> Any:
    with AdminClient(f"ipc://{daemon.runtime}/admin.sock") as admin:
        return admin.request(op, args, 60_000)


def give(daemon: Daemon, /, plugin: str = "set", **args: Any) -> Any:
    return operate(daemon, "plugin.settings.set", id=plugin, **args)


def test_the_next_call_has_what_was_set_and_each_user_the_users_own(daemon: Daemon) -> None:
    assert act(daemon, "read") == {"region": "eu", "knows": False}
    give(daemon, values={"region": "us", "limits": [1, 2], "apiKey": SECRET})
    give(daemon, user=B, values={"region": "eu"})
    assert act(daemon, "read") == {"region": "us", "limits": [1, 2], "knows": True}
    assert act(daemon, "read", B) == {"region": "eu", "limits": [1, 2], "knows": True}
    operate(daemon, "plugin.settings.unset", id="set", user=B, all=True)
    assert act(daemon, "read", B)["region"] == "us"
    assert "does not support item assignment" in act(daemon, "change")


def test_javascript_has_them_frozen(daemon: Daemon) -> None:
    give(daemon, "jet", values={"limits": [3]})
    assert act(daemon, "read", plugin="jet") == {"region": "eu", "limits": [3], "changed": "refused"}
    give(daemon, "jet", values={"limits": [4], "apiKey": SECRET}, user=A)
    with pytest.raises(CallError) as refused:  # it returns all that it has
        act(daemon, "read", plugin="jet")
    assert refused.value.code == "INVALID_OUTPUT" and "apiKey" in str(refused.value)
    assert SECRET not in str(refused.value)
    assert act(daemon, "read", B, plugin="jet") == {"region": "eu", "limits": [3], "changed": "refused"}


def test_a_secret_stands_in_no_reply_no_log_no_effect_and_no_file(daemon: Daemon) -> None:
    give(daemon, values={"apiKey": SECRET})
    assert act(daemon, "print") is None
    with pytest.raises(CallError) as emitted:  # only the supervisor knows which settings are secret
        act(daemon, "emit")
    assert emitted.value.reply["details"]["apiCode"] == "secret_in_effect" and "effects" not in emitted.value.reply
    assert "the secret setting apiKey" in str(emitted.value) and SECRET not in repr(vars(emitted.value))
    with pytest.raises(CallError) as raised:
        act(daemon, "raise")
    assert "no answer for [secret]" in str(raised.value) and SECRET not in repr(vars(raised.value))
    with pytest.raises(CallError) as returned:
        act(daemon, "return")
    assert (returned.value.code, SECRET in repr(vars(returned.value))) == ("INVALID_OUTPUT", False)
    said = operate(daemon, "plugin.settings.get", id="set")
    assert SECRET not in json.dumps(said)
    mine = next(one for one in said["settings"] if one["name"] == "apiKey")
    assert (mine["set"], mine["secret"], "value" in mine) == (True, True, False)
    operate(daemon, "state.backup", path=str(daemon.folder / "copy"))
    found = {path.relative_to(daemon.folder) for path in daemon.folder.rglob("*")
             if path.is_file() and SECRET.encode() in path.read_bytes()}
    assert not found
    assert "the key is [secret] !" in daemon.log or "the key is [secret] !" in (
        daemon.state / "logs" / "set.log").read_text()
    assert not list((daemon.folder / "copy").rglob("secrets.key"))
    key = daemon.state / "secrets.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert base64.b64decode(key.read_text().split()[1])[:8] not in b"".join(
        path.read_bytes() for path in (daemon.folder / "copy").rglob("*") if path.is_file())


def test_a_secret_stands_in_no_answer_about_a_trial_of_the_daemons_own(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest("own", "plugin.py", ["ui:render", "events:emit", "network:fetch"]))
    (folder / "plugin.py").write_text(PYTHON.replace('id="set"', 'id="own"'))
    operate(daemon, "plugin.install", path=str(folder))
    operate(daemon, "plugin.enable", id="own")
    operate(daemon, "plugin.settings.set", id="own", values={"apiKey": SECRET})
    said = operate(daemon, "plugin.verify", id="own", hook="onActionExecute",
                   payload={"action": "raise", "context": {}})
    assert not said["ok"] and "no answer for [secret]" in json.dumps(said) and SECRET not in json.dumps(said)



BAD: list[tuple[dict[str, Any], str]] = [
    ({"values": {"region": "asia"}}, "bad_value"),
    ({"values": {"region": 3}}, "bad_value"),
    ({"values": {"limits": [1, "2"]}}, "bad_value"),
    ({"values": {"apiKey": "short"}}, "bad_value"),
    ({"values": {"apiKey": 12345678}}, "bad_value"),
    ({"values": {"token": "two\nlines of a secret"}}, "bad_value"),
    ({"values": {"regoin": "eu"}}, "unknown_setting"),
    ({"values": {}}, "no_values"),
    ({"values": {"limits": [0] * 100_000}}, "settings_too_large"),
    ({"values": {"region": "eu"}, "user": "nobody"}, "bad_user"),
    ({"values": {"region": "eu"}, "user": A, "tenant": "acme"}, "bad_owner"),
    ({"values": {"region": "eu"}, "expect": "0123456789abcdef"}, "changed_meanwhile"),
]


@pytest.mark.parametrize("args,reason", BAD, ids=[f"{reason}-{number}" for number, (_, reason) in enumerate(BAD)])
def test_what_does_not_fit_is_refused_without_its_value(daemon: Daemon, args: dict[str, Any], reason: str) -> None:
    with pytest.raises(CallError) as refused:
        give(daemon, **args)
    assert refused.value.details["reason"] == reason
    assert "asia" not in str(refused.value) and "lines of" not in str(refused.value)


def test_far_too_much_is_refused_in_one_line(daemon: Daemon) -> None:
    with pytest.raises(CallError) as refused:
        give(daemon, values={"region": "x" * 500_000})
    assert refused.value.details["reason"] == "settings_too_large" and len(str(refused.value)) < 500


def test_what_one_owner_has_is_bounded_however_many_commands_it_came_in(daemon: Daemon) -> None:
    give(daemon, "wide", values={"first": "x" * 40_000})
    with pytest.raises(CallError) as refused:
        give(daemon, "wide", values={"second": "x" * 40_000})
    assert refused.value.details["reason"] == "settings_too_large"
    give(daemon, "wide", values={"first": "x" * 20_000, "second": "x" * 40_000})


def test_a_plugin_that_is_not_there_has_no_settings(daemon: Daemon) -> None:
    with pytest.raises(CallError) as refused:
        give(daemon, "nobody", values={"region": "eu"})
    assert refused.value.code == "NOT_FOUND"


def test_two_administrators_at_once_lose_nothing_of_each_other(daemon: Daemon) -> None:
    errors: list[Exception] = []

    def set_many(name: str, value: Any) -> None:
        try:
            for _ in range(5):
                give(daemon, user=B, values={name: value})
        except Exception as error:  # noqa: BLE001 - it is looked at below
            errors.append(error)

    threads = [threading.Thread(target=set_many, args=given) for given in (("region", "us"), ("limits", [7]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert {"region": "us", "limits": [7]}.items() <= act(daemon, "read", B).items()
    read = operate(daemon, "plugin.settings.get", id="set", user=B)["revision"]
    give(daemon, user=B, values={"limits": [8]}, expect=read)
    with pytest.raises(CallError) as late:
        give(daemon, user=B, values={"limits": [9]}, expect=read)
    assert late.value.code == "CONFLICT"


def test_the_key_is_rotated_and_old_ciphertexts_are_encrypted_anew(daemon: Daemon) -> None:
    give(daemon, values={"apiKey": SECRET})

    def key() -> str:
        found = operate(daemon, "plugin.settings.get", id="set")["settings"]
        return str(next(one["key"] for one in found if one["name"] == "apiKey"))

    before = key()
    done = operate(daemon, "secrets.rotate")
    assert done["key"] == key() != before and done["encrypted"] >= 1
    assert len((daemon.state / "secrets.key").read_text().splitlines()) == 2
    assert act(daemon, "read")["knows"]


def test_without_its_key_the_plugin_is_not_served_and_the_daemon_is(tmp_path: Path) -> None:
    running = Daemon(config={"audit.min_free_bytes": 0})
    put(running)
    with running as daemon:
        def state() -> str:
            return str(operate(daemon, "plugin.live", id="set")["state"])

        give(daemon, values={"apiKey": SECRET})
        path = daemon.state / "secrets.key"
        path.chmod(0o644)
        daemon.reload()
        wait_for(lambda: state() == "disabled", 30)
        for word in ("may be read by others", "there is no key file"):
            with pytest.raises(CallError) as refused:
                act(daemon, "read")
            assert refused.value.code == "PLUGIN_DISABLED"
            assert word in refused.value.details["reason"], refused.value.details
            assert refused.value.details["reason"].startswith("secrets_unavailable")
            assert act(daemon, "read", plugin="jet")["region"] == "eu"
            if path.exists():
                os.rename(path, tmp_path / "kept")
                daemon.stop()
                daemon.start()
        with pytest.raises(CallError) as lost:  # a new key would hide that the old one is lost
            give(daemon, "jet", values={"apiKey": SECRET})
        assert lost.value.details["reason"] == "secrets_unavailable" and not path.exists()
        (tmp_path / "kept").chmod(0o600)
        os.rename(tmp_path / "kept", path)
        daemon.reload()
        wait_for(lambda: state() == "enabled", 30)
        assert act(daemon, "read")["knows"]
        path.unlink()
        path.write_text("other " + base64.b64encode(os.urandom(32)).decode())
        path.chmod(0o600)
        daemon.reload()
        wait_for(lambda: state() == "disabled", 30)
        with pytest.raises(CallError):
            act(daemon, "read")
        with pytest.raises(CallError):
            operate(daemon, "secrets.rotate")
        assert len(path.read_text().splitlines()) == 1, "a rotation that fails leaves no key behind"
        done = operate(daemon, "secrets.rotate", keep_key=True, forget_unreadable=True)
        assert done["forgotten"] == 1
        assert not act(daemon, "read")["knows"]
