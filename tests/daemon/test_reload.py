"""SIGHUP and ``daemon.reload``: what can be applied is, the rest is named, a bad file changes nothing."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.config import known_keys
from apex_exec.daemon.reload import RELOADABLE
from tests.support.daemon import ECHO, SLEEP, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host, action


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    write_plugin(tmp_path / "plugins", "sleeper", SLEEP)
    with Daemon(plugins=tmp_path / "plugins") as running:
        yield running


def test_every_reloadable_key_exists() -> None:
    assert set(RELOADABLE) <= set(known_keys())


def test_sighup_applies_limits_and_reads_plugins_dir_again(daemon: Daemon, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    with Host(daemon.endpoint) as host:
        old = host.invoke("echo", {"n": 1})
        assert old["type"] == "result"
        write_plugin(plugins, "late", ECHO)
        shutil.rmtree(plugins / "sleeper")
        write_plugin(plugins, "echo", ECHO.replace('params["context"]', '"another version"'))
        daemon.write_config({"limits.timeout_ms": 1234, "pool.per_host": 7, "log.level": "debug"})
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: "reloaded: limits.timeout_ms, log.level, pool.per_host" in daemon.log, 5, "the reload")
        assert host.ask({"type": "hello", "protocol": [1]})["limits"]["timeoutMs"] == 1234
        assert host.invoke("late")["type"] == "result"
        assert host.invoke("echo")["result"]["result"] == "another version"
        assert host.invoke("sleeper")["code"] == "PLUGIN_NOT_FOUND"
        plugin = daemon.operate("plugin.show", id="echo")
        assert plugin["limits"]["timeoutMs"] == 1234
    assert daemon.metric("config_last_reload_successful") == 1


def test_calls_under_way_survive_a_reload(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        ids = [host.send(action("sleeper", {"seconds": 0.1}, userId=f"{n:08x}{USER[8:]}")) for n in range(12)]
        for _ in range(5):
            daemon.operate("daemon.reload")
            time.sleep(0.1)
        assert [host.reply(id_)["type"] for id_ in ids] == ["result"] * 12


@pytest.mark.slow
def test_what_needs_a_restart_is_named_and_left(daemon: Daemon) -> None:
    daemon.write_config({"host.max_message_bytes": 4096, "limits.memory_mb": 40})
    assert daemon.operate("daemon.reload") == {"applied": ["limits.memory_mb"], "restart": ["host.max_message_bytes"]}
    assert "takes effect after a restart: host.max_message_bytes" in daemon.log
    with Host(daemon.endpoint) as host:
        limits = host.ask({"type": "hello", "protocol": [1]})["limits"]
    assert (limits["maxMessageBytes"], limits["memoryMb"]) == (1_048_576, 40)


def test_a_bad_file_changes_nothing_and_is_seen_in_the_metric(daemon: Daemon, tmp_path: Path) -> None:
    good = daemon.config_file.read_text()
    for bad in (good + "limits.timeout_millis = 1\n", good + "[[[", good.replace("plugins_dir", "plugins_dirs")):
        daemon.config_file.write_text(bad)
        with pytest.raises(AssertionError, match=r"INVALID_INPUT"):
            daemon.operate("daemon.reload")
        daemon.wait_metric("config_last_reload_successful", 0)
        with Host(daemon.endpoint) as host:
            assert host.invoke("echo")["type"] == "result"
    (tmp_path / "plugins" / "sleeper" / "manifest.json").write_text(
        (tmp_path / "plugins" / "echo" / "manifest.json").read_text())
    daemon.config_file.write_text(good)
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: "both have the id echo" in daemon.log, 5, "the refusal")
    with Host(daemon.endpoint) as host:
        assert host.invoke("sleeper", {"seconds": 0})["type"] == "result"
    write_plugin(tmp_path / "plugins", "sleeper", SLEEP)
    daemon.operate("daemon.reload")
    daemon.wait_metric("config_last_reload_successful", 1)
