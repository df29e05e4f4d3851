"""What is served follows the rows: when a registrar dies at the commit, when the database fails, at every start."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from apex_exec.catalogue.methods import HostMethod
from apex_exec.client import AdminClient, CallError, Client
from apex_exec.config import load_settings
from apex_exec.core import policy
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration.registrar import Registrar, _Link
from apex_exec.errors import Refusal
from apex_exec.registry import specs
from apex_exec.registry import store as db_
from apex_exec.registry.bundles.bundle import pack
from apex_exec.registry.trust.signing import load_private, new_key, raw_public, sign_digest, write_signatures
from apex_exec.wire.frames import FrameBuffer, pack_frame
from tests.registry.conftest import SECOND_NS, Stage
from tests.registry.test_approvals import ADMIN, DAY_NS, Approver
from tests.registry.test_signing import Signer
from tests.support.bundles import bundle
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin

OTHER_USER = USER.replace("1", "2")
PAYLOAD = {"dashboardId": "d"}


# ---------------------------------------------------------------------- a daemon that outlives its registrar
@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Two installed plugins, signed, one enabled for two users, and one in ``plugins_dir``; a warm worker."""
    write_plugin(tmp_path / "plugins", "folder-one", ECHO)
    with Daemon(plugins=tmp_path / "plugins") as running:
        private, _ = new_key(tmp_path / "keys", "acme")
        with AdminClient(running.admin) as client:
            client.request("keys.register", {"name": "acme", "role": "author",
                                             "public_key": raw_public(load_private(private)).hex()})
            for id_ in ("sample", "other"):
                made = bundle(id=id_)
                signed = write_signatures([sign_digest(load_private(private), "author", made.digest, time.time_ns())])
                client.request("plugin.install", {"bundle": pack(made, signed)}, 60_000)
            for user in (USER, OTHER_USER):
                client.request("plugin.enable", {"id": "sample", "user": user})
            client.request("plugin.enable", {"id": "other"})
        running.stop()
        running.env["APEXEXEC_TEST_CRASH_AT"] = "row-committed"
        running.start()
        yield running


def outcome(daemon: Daemon, plugin: str, user: str = USER) -> str:
    with Client(daemon.endpoint) as client:
        try:
            hook, payload = ("onActionExecute", {"action": "a", "context": {}}) if plugin == "folder-one" else (
                "onDashboardLoad", PAYLOAD)
            client.invoke(plugin, hook, user, payload)
        except CallError as error:
            return str(error.code)
    return "ok"


STOPS: dict[str, tuple[dict[str, Any], str]] = {
    "plugin.remove": ({"id": "sample"}, "PLUGIN_NOT_FOUND"),
    "plugin.disable": ({"id": "sample"}, "PLUGIN_DISABLED"),
    "plugin.disable for one": ({"id": "sample", "user": USER}, "PLUGIN_DISABLED"),
    "plugin.quarantine": ({"id": "sample", "reason": "x"}, "PLUGIN_DISABLED"),
    "plugin.revokeVersion": ({"digest": bundle(id="sample").digest, "reason": "x"}, "PLUGIN_DISABLED"),
    "keys.revoke": ({"name": "acme", "reason": "stolen"}, "PLUGIN_DISABLED"),
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.slow_after(1)
def test_what_was_stopped_is_not_executed_again_after_the_registrar_died_at_the_commit(
        daemon: Daemon, stop: str) -> None:
    args, code = STOPS[stop]
    assert outcome(daemon, "sample") == outcome(daemon, "other") == "ok"
    pids = daemon.pids("sample")
    with AdminClient(daemon.admin) as client, pytest.raises(CallError) as caught:
        client.request(stop.split(maxsplit=1)[0], args)
    assert caught.value.details["reason"] == "registrar_died"
    wait_for(lambda: outcome(daemon, "sample") == code, 10, "the stop")
    if stop != "plugin.disable for one":
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), 2, "its worker's end")
        assert outcome(daemon, "sample", OTHER_USER) == code
    else:
        assert outcome(daemon, "sample", OTHER_USER) == "ok"
    assert outcome(daemon, "folder-one") == "ok", "the registry's snapshot is no word on plugins_dir"
    assert outcome(daemon, "other") == ("PLUGIN_DISABLED" if stop == "keys.revoke" else "ok")
    assert daemon.log.count("the registrar process (pid") == 1
    daemon.wait_metric('side_process_restarts_total{process="registrar"}', 1)


# ---------------------------------------------------------------------- a database that fails
def as_rows_say(stage: Stage) -> dict[str, PluginSpec]:
    return {spec.id: spec for spec in stage.context.store.transact(lambda db: specs.served_now(stage.context, db))}


def operations(stage: Stage, bob: Approver, acme: Signer) -> dict[str, Callable[[], Any]]:
    """Each operation that changes what is served, as something to do on a stage with ``sample`` enabled."""
    newer = bundle(version="1.1.0")
    return {
        "quarantine": lambda: stage.run("plugin.quarantine", id="sample", reason="x"),
        "disable": lambda: stage.run("plugin.disable", id="sample"),
        "enable": lambda: stage.run("plugin.enable", id="waits"),
        "remove": lambda: stage.run("plugin.remove", id="sample"),
        "revokeVersion": lambda: stage.run("plugin.revokeVersion", digest=bundle(**ADMIN).digest, reason="x"),
        "keys.revoke": lambda: stage.run("keys.revoke", name="acme", reason="x"),
        "revoke": lambda: bob.decide(stage, "revoke"),
        "release": lambda: stage.run("plugin.release", id="held"),
        "upgrade": lambda: stage.run("plugin.upgrade", bundle=pack(newer, acme.sign(newer))),
        "install": lambda: stage.install(bundle(id="fresh")),
    }


def furnish(stage: Stage, tmp_path: Path) -> tuple[Approver, Signer]:
    bob, acme = Approver(tmp_path / "keys", "bob"), Signer(tmp_path / "keys", "acme")
    bob.register(stage, "approver")
    acme.register(stage, "author")
    made = bundle(**ADMIN)
    stage.install(made, acme.sign(made))
    bob.decide(stage)
    stage.run("plugin.enable", id="sample")
    for id_ in ("waits", "held"):
        stage.install(bundle(id=id_))
    stage.run("plugin.quarantine", id="held", reason="x")
    return bob, acme


OPERATIONS = ("quarantine", "disable", "enable", "remove", "revokeVersion", "keys.revoke", "revoke", "release",
              "upgrade", "install")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_database_that_fails_at_any_transaction_leaves_the_supervisor_told_what_the_rows_say(
        stage: Stage, tmp_path: Path, operation: str) -> None:
    """Every transaction of the operation fails in turn, once before it has done anything and once after its commit."""
    bob, acme = furnish(stage, tmp_path)
    real = stage.context.store.transact
    doubts: list[str] = []
    stage.change(in_doubt=lambda: doubts.append(operation))
    for committed in (False, True):
        for failing in range(1, 60):
            count = 0

            def transact(work: Callable[[Any], Any], failing: int = failing, committed: bool = committed) -> Any:
                nonlocal count
                count += 1
                if count != failing:
                    return real(work)
                if committed:
                    real(work)
                raise Refusal("store_unusable", "the database is not reachable")

            stage.context.store.transact = transact  # type: ignore[method-assign]  # the database that fails
            doubts.clear()
            try:
                operations(stage, bob, acme)[operation]()
            except Refusal:
                pass
            finally:
                stage.context.store.transact = real  # type: ignore[method-assign]  # and is mended
            if not doubts:
                assert stage.served == as_rows_say(stage), (operation, failing, committed)
            stage.served = as_rows_say(stage)  # what the registrar tells in doubt
            if count < failing:
                return  # it has no more transactions than that


# ---------------------------------------------------------------------- one constructor
def test_an_approval_ends_on_the_hour_in_every_spec_that_is_made(stage: Stage, tmp_path: Path) -> None:
    bob, acme = furnish(stage, tmp_path)
    (spec,) = (one for one in specs.reconcile(stage.context) if one.id == "sample")
    assert spec == stage.served["sample"] and spec.approval_expires
    (end,) = spec.approval_expires.values()
    for seconds, kind in ((-1, policy.Allowed), (1, policy.Denied)):
        assert isinstance(policy.check(spec, "call", HostMethod("admin.users.list"), end + seconds), kind)
    newer = bundle(version="1.1.0", **ADMIN)
    stage.run("plugin.upgrade", bundle=pack(newer, acme.sign(newer)))
    bob.decide(stage)
    trial = next(params["spec"] for kind, params in stage.asked if kind == "canary")
    assert set(trial["approval_expires"]) == set(trial["approved"]) == {"admin:users"}
    stage.later(91 * DAY_NS / SECOND_NS)
    assert next(one for one in specs.reconcile(stage.context) if one.id == "sample").approved == ()


def test_every_spec_of_a_start_is_the_one_that_the_last_operation_told(stage: Stage, tmp_path: Path) -> None:
    bob, acme = furnish(stage, tmp_path)
    for operation, run in operations(stage, bob, acme).items():
        try:
            run()
        except Refusal:
            assert operation in ("revoke", "upgrade", "revokeVersion")  # the plugin was removed by then
        assert {spec.id: spec for spec in specs.reconcile(stage.context)} == stage.served, operation


def test_a_version_whose_manifest_this_release_cannot_read_can_still_be_disabled_and_removed(stage: Stage) -> None:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    stage.context.store.transact(lambda db: db_.change_version(db, "sample", "1.0.0", manifest='{"id": "sample"}'))
    assert stage.run("plugin.quarantine", id="sample", reason="x")["changed"]
    assert "sample" not in stage.served
    assert stage.run("plugin.remove", id="sample")["changed"]


# ---------------------------------------------------------------------- a commit whose outcome is unknown
def test_a_registrar_whose_commit_may_have_stood_sends_all_anew(tmp_path: Path) -> None:
    """The database is lost at the commit itself: the operation is refused, but its rows are there, and the
    supervisor is sent them."""
    url = f"sqlite:///{tmp_path}/registry.db"
    stage = Stage(tmp_path, url)
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    stage.context.store.close()
    ours, theirs = socket.socketpair()
    settings = load_settings(None, {"state_dir": str(tmp_path), "registry.url": url})
    made = Registrar(_Link(theirs), settings)
    threading.Thread(target=made.run, daemon=True).start()
    frames, told = FrameBuffer(), []

    def hear(wanted: Callable[[list[Any]], bool], seconds: float = 10.0) -> list[Any]:
        due = time.monotonic() + seconds
        while time.monotonic() < due:
            for message in told:
                if wanted(message):
                    told.remove(message)
                    return list(message)
            ours.settimeout(max(0.01, due - time.monotonic()))
            told.extend(msgspec.msgpack.decode(body) for body in frames.feed(ours.recv(262_144)))
        raise AssertionError(f"nothing like it among {told}")

    try:
        first = hear(lambda message: message[0] == "snapshot")
        assert [spec["state"] for spec in first[1]] == ["enabled"] and first[2] is True
        hear(lambda message: message[0] == "ready")
        assert made._store is not None
        real = made._store.transact

        def lost(work: Callable[[Any], Any]) -> Any:
            done = real(work)
            if threading.current_thread().name != "registrar-quick":
                return done
            made._store.transact = real  # type: ignore[method-assign, union-attr]  # it is back at once
            raise Refusal("store_unusable", "the connection was lost during COMMIT")

        made._store.transact = lost  # type: ignore[method-assign]  # the database that fails
        ours.sendall(pack_frame(msgspec.msgpack.encode(
            ["op", 1, "plugin.quarantine", {"id": "sample", "reason": "x"}, 0])))
        assert hear(lambda message: message[0] == "refused")[1] == 1
        again = hear(lambda message: message[0] == "snapshot")
        assert [spec["state"] for spec in again[1]] == ["quarantined"]
    finally:
        ours.close()
