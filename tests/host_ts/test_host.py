"""A host in TypeScript against a real daemon."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.errors import Code
from tests.client.test_connections import Place, folder, provided_across_restarts
from tests.host_ts.conftest import COMPILED, HOST_TS, PATIENT, Scenario
from tests.support import other_user
from tests.support.daemon import ROOT, Daemon
from tests.support.hostile_peer import WRONG_ANSWERS, Answering, HostilePeer
from tests.support.other_user import UID

__all__ = ["folder"]
EXAMPLES = HOST_TS.parent / "plugins"


def test_the_lock_pins_every_package_by_its_hash_and_names_no_registry() -> None:
    """Else another day would bring other versions below those of package.json."""
    text = (HOST_TS / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    own = packages.pop("")
    wanted = json.loads((HOST_TS / "package.json").read_text())
    for kind in ("dependencies", "devDependencies"):
        assert own[kind] == wanted[kind], "run `npm install` and commit its package-lock.json"
        assert all(packages[f"node_modules/{name}"]["version"] == version for name, version in wanted[kind].items())
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "resolved" not in text and "://" not in text.replace("https://github.com/sponsors", ""), "a registry's name"


def test_the_typed_client_runs_every_hook_and_its_errors_are_typed(scenario: Scenario, daemon: Daemon) -> None:
    assert scenario("hooks", daemon.endpoint) == {"ok": True}


def test_declared_hooks_have_types_and_a_wrong_payload_does_not_compile(scenario: Scenario, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        '[hooks.onShip]\nmode = "all"\nresult = {type = "integer"}\n'
        'params = {type = "object", required = ["to"], properties = {to = {enum = ["near", "far"]}}}\n')
    made = subprocess.run([sys.executable, "-m", "apex_exec", "schema", "--typescript", "--config",
                           str(tmp_path / "c.toml")], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    source = tmp_path / "host-ts"
    shutil.copytree(HOST_TS, source, ignore=shutil.ignore_patterns("dist", "node_modules"))
    (source / "node_modules").symlink_to(HOST_TS / "node_modules")
    (source / "hooks.ts").write_text(made.stdout)

    def compiled(payload: str) -> str:
        (source / "host.ts").write_text(
            'import { ApexClient } from "./client.js";\nconst client = new ApexClient("ipc:///x");\n'
            f'const one: number = (await client.invoke("p", "onShip", "u", {payload})).result;\n'
            f'const all: number[] | null = (await client.dispatch("onShip", "u", {payload})).result;\n'
            "console.log(one, all);\n")
        return subprocess.run([str(HOST_TS / "node_modules/.bin/tsc"), "-p", str(source), "--noEmit"],
                              capture_output=True, text=True, timeout=120).stdout

    assert compiled('{ to: "near" }') == ""
    assert "TS2322" in compiled('{ to: "nowhere" }')


def test_every_error_that_a_host_can_cause_has_its_own_code(scenario: Scenario, plugins: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        with Daemon(folder, plugins=plugins, config={**PATIENT, "pool.queue_depth": 64}) as daemon:
            seen = scenario("errors", daemon.endpoint)["codes"]
    assert seen == sorted([
        Code.BOOT_FAILED, Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.DUPLICATE_ID, Code.HOOK_NOT_DECLARED,
        Code.INVALID_INPUT, Code.INVALID_OUTPUT, Code.MEMORY_LIMIT, Code.OVERLOADED, Code.PAYLOAD_TOO_LARGE,
        Code.PERMISSION_DENIED, Code.PLUGIN_ERROR, Code.PLUGIN_NOT_FOUND, Code.PROTOCOL_ERROR, Code.TIMEOUT,
        Code.UNSUPPORTED_PROTOCOL, Code.WORKER_CRASHED])


def test_a_host_registers_administers_and_provides(scenario: Scenario, plugins: Path, tmp_path: Path) -> None:
    registration = {
        "id": "custom-analytics", "name": "Custom Analytics Dashboard", "version": "1.0.0", "author": "ACME Corp",
        "permissions": ["data:read", "ui:render"],
        "manifest": {"entrypoint": "/plugins/custom-analytics/index.py", "hooks": ["onDashboardLoad", "onDataFetch"]}}
    for kind in ("py", "ts"):
        bundle = tmp_path / kind
        shutil.copytree(EXAMPLES / "custom-analytics", bundle)
        (bundle / "plugin.py").rename(bundle / f"index.{kind}")
        (bundle / "manifest.json").write_text(json.dumps(registration).replace("index.py", f"index.{kind}"))
    (tmp_path / "policy.toml").write_text(
        'allow = ["data:read", "ui:render"]\n[plugin.boss]\nallow = ["admin:users", "network:fetch", "ui:render"]\n')
    config = {"breaker.backoff_min_seconds": 0.001, "breaker.backoff_max_seconds": 0.01, "limits.cpu_percent": 100,
              "security.policy_file": str(tmp_path / "policy.toml"), "fetch.allow": ["api.example.com"]}
    with Daemon(plugins=plugins, config=config) as daemon:
        seen = scenario("admin", daemon.endpoint, daemon.admin, str(tmp_path / "py"), str(tmp_path / "ts"))["codes"]
        assert daemon.process.wait(10) == 0
    wanted = {Code.PLUGIN_DISABLED, Code.NOT_FOUND, Code.NOT_PROVIDED, Code.PERMISSION_DENIED,
              Code.RATE_LIMITED, Code.QUARANTINED, Code.SHUTTING_DOWN}
    assert wanted <= set(seen)


def test_what_both_npm_libraries_make_of_javascripts_values(scenario: Scenario, daemon: Daemon) -> None:
    seen = scenario("libraries", daemon.endpoint)
    same = {"date": "datetime", "date back": "Date 1700000000123", "bigint": "int", "bigint back": "12",
            "hugeBigint": "int", "hugeBigint back": "INVALID_OUTPUT", "bytes": "bytes", "bytes back": "bytes 1,2,3",
            "integralFloat": "int", "integralFloat back": "5", "float": "float", "float back": "1.5",
            "nan": "float", "nan back": "INVALID_OUTPUT", "emoji": "str", "emoji back": '"é😀"', "nested": "dict",
            "nested back": '{"list":[1,[2,[3]]],"nothing":null}'}
    for library, values in seen.items():
        assert {key: values[key] for key in same} == same, library
    ours, other = seen["@msgpack/msgpack"], seen["msgpackr"]
    assert (ours["undefined"], ours["set"], ours["map"], ours["tooBig back"]) == ("NoneType", "dict", "dict", "0")
    assert (other["undefined"], other["set"], other["map"], other["tooBig"]) == ("Ext", "list", "dict", "throws")
    assert ours["envelope"] == "aaaaaaaa-2222-4333-8444-555555555555"
    # msgpackr writes undefined as an extension of its own, which no other reader knows: named, not guessed at.
    assert other["envelope"]["code"] == "INVALID_INPUT"
    assert other["envelope"]["details"] == {"path": "$.traceparent"}


def test_ten_thousand_interleaved_calls_each_get_exactly_one_right_reply(scenario: Scenario, daemon: Daemon) -> None:
    over = threading.Event()
    killed = 0

    def kill_now_and_then() -> None:
        nonlocal killed
        while not over.wait(0.5):
            with contextlib.suppress(psutil.NoSuchProcess):  # it died between the look and the kill
                for victim in daemon.workers()[:1]:
                    victim.kill()
                    killed += 1

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        summary = scenario("interleaved", daemon.endpoint, "10000", "7", timeout=110)
    finally:
        over.set()
        killer.join()
    print(summary, killed)
    assert summary["answered"] == 10_000 and killed > 0
    assert summary["counts"]["ok"] > 8_000 and summary["counts"]["CANCELLED"] > 20
    assert summary["exits"] > 10 and summary["startedLost"] <= summary["exits"] + killed


def test_kill_9_of_the_daemon_settles_every_pending_call(scenario: Scenario, plugins: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        with Daemon(folder, plugins=plugins, config=PATIENT) as daemon:
            command = ["node", str(COMPILED / "pending.mjs"), daemon.endpoint]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
                assert host.stdin and host.stdout and host.stdout.readline() == "pending\n"
                daemon.process.kill()
                daemon.process.wait()
                host.stdin.write("dead\n")
                host.stdin.flush()
                begun = time.monotonic()
                assert host.stdout.readline() == "settled\n"
                assert time.monotonic() - begun < 5
                with Daemon(folder, plugins=plugins, config=PATIENT):
                    summary, _ = host.communicate("back\n", timeout=20)
                assert host.returncode == 0
    assert '"lost":100,"total":100' in summary and '"again":{"back":true}' in summary


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_what_it_provides_is_provided_again_after_a_restart(scenario: Scenario, folder: Path, transport: str) -> None:
    place = Place(folder, transport)
    keys = [key.decode() for key in place.curve or ()]

    @contextlib.contextmanager
    def host() -> Iterator[None]:
        command = ["node", str(COMPILED / "provider.mjs"), place.daemon.endpoint, *keys]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout and process.stdout.readline() == "ready\n"
                yield
                summary, _ = process.communicate("over\n", timeout=20)
            finally:
                process.kill()
        assert json.loads(summary) == {"seen": [{"page": 1}] * 3}

    with place.daemon:
        provided_across_restarts(place, host())


def test_no_frame_however_wrong_ends_the_clients_receive_loop(scenario: Scenario) -> None:
    with tempfile.TemporaryDirectory(prefix="apx") as folder, HostilePeer(f"ipc://{folder}/s"):
        seen = scenario("bad_frames", f"ipc://{folder}/s")
    assert seen["outcomes"][1::2] == list(range(2, 61, 2))
    assert set(seen["outcomes"][::2]) <= {"PROTOCOL_ERROR", "read"}
    assert seen["outcomes"].count("PROTOCOL_ERROR") >= 15 and seen["unmatched"] >= 30


@pytest.mark.parametrize("answer", WRONG_ANSWERS, ids=str)
def test_an_answer_to_something_else_is_no_success(answer: dict[str, Any], scenario: Scenario) -> None:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        peer = Answering(f"ipc://{folder}/s", answer)
        try:
            seen = scenario("wrong_type", f"ipc://{folder}/s")
        finally:
            peer.close()
    assert seen["outcome"] == {"code": "PROTOCOL_ERROR", "started": True, "retryable": False}


def test_events_disposal_and_an_open_client_that_holds_no_process(scenario: Scenario, daemon: Daemon) -> None:
    seen = scenario("lifetime", daemon.endpoint)
    assert seen == {"events": ["connect", "cancelled", "soon"], "exits": True}


def test_while_the_daemon_is_away_nothing_is_said_to_have_left_and_an_abort_rejects_at_once(
        scenario: Scenario, plugins: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        command = ["node", str(COMPILED / "away.mjs"), f"ipc://{folder}/run/host.sock"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
            try:
                assert host.stdout and host.stdout.readline() == "away\n"
                with Daemon(folder, plugins=plugins, config=PATIENT):
                    summary, _ = host.communicate(timeout=20)
            finally:
                host.kill()
        seen = json.loads(summary)
        assert seen["executed"] == ["false"]
        assert seen["codes"] == ["CANCELLED false"] * 2 and seen["abortedMs"] < 1000
        assert seen["seen"]["result"]


def test_a_user_who_may_not_connect_is_told_so_at_once(scenario: Scenario, daemon: Daemon) -> None:
    """``scenario`` compiles them; this one is run as another user, from a copy that this user can read."""
    place = daemon.folder / "readable"
    skipped = shutil.ignore_patterns(".bin", "@types", "typescript", "@typescript", "msgpackr*", "@msgpackr-extract")
    shutil.copytree(HOST_TS / "node_modules", place / "node_modules", symlinks=True, ignore=skipped)
    shutil.copytree(HOST_TS / "dist", place / "dist")
    shutil.copy(HOST_TS / "package.json", place)
    for path in (place, *place.rglob("*")):
        path.chmod(0o755)
    program = place / COMPILED.relative_to(HOST_TS) / "closed.mjs"
    daemon.folder.chmod(0o711)
    who: Any = {**other_user.become(UID), "cwd": "/"}
    for mode in (0o711, 0o700):  # the sockets alone are closed, and then the folder too
        daemon.runtime.chmod(mode)
        done = subprocess.run(["node", str(program), daemon.endpoint, daemon.admin],
                              capture_output=True, text=True, timeout=60, **who)
        assert done.returncode == 0, done.stderr
        host, admin = json.loads(done.stdout)["told"]
        for told, name in ((host, "host"), (admin, "admin")):
            assert told["executed"] is False and told["seconds"] < 2, told
            for part in (f"uid {UID}", f"{daemon.runtime}/{name}.sock", f"{name}.socket_group"):
                assert part in told["message"]
        assert "admin.roles" in admin["message"]
