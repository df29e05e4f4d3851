"""Plugins served from ``plugins_dir``: a reload that is refused changes nothing, and old content is forgotten."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import pytest

from apex_exec.catalogue.limits import Limits
from apex_exec.daemon.folder_plugins import scan_folder
from apex_exec.errors import ConfigError
from apex_exec.registry.bundles.blobs import BundleSource
from tests.daemon.test_runtime_folder import curve_folder
from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin


def test_the_content_before_the_last_is_forgotten_and_that_of_a_plugin_that_is_gone_at_once(tmp_path: Path) -> None:
    source = BundleSource()
    digests = []
    for number in range(10):
        write_plugin(tmp_path, "echo", f"{ECHO}\n# {number}")
        write_plugin(tmp_path, "other", ECHO)
        found = scan_folder(str(tmp_path), Limits())
        source.replace(found.bundles)
        digests.append(next(spec.digest for spec in found.specs if spec.id == "echo"))
        assert len(source.in_memory) <= 3
        for digest in digests[-2:]:  # a worker of the version before may be starting
            assert source.load(digest)
    shutil.rmtree(tmp_path / "echo")
    source.replace(scan_folder(str(tmp_path), Limits()).bundles)
    assert len(source.in_memory) == 1
    shutil.rmtree(tmp_path / "other")
    source.replace(scan_folder(str(tmp_path), Limits()).bundles)
    assert not source.in_memory


def test_a_folder_whose_policy_file_is_broken_is_refused(tmp_path: Path) -> None:
    write_plugin(tmp_path, "echo", ECHO)
    policy = tmp_path / "policy.toml"
    policy.write_text("no toml [")
    with pytest.raises(ConfigError):
        scan_folder(str(tmp_path), Limits(), str(policy))


@pytest.mark.slow
def test_a_reload_that_is_refused_after_the_folder_was_read_leaves_its_change_to_the_next_one(tmp_path: Path) -> None:
    keys = curve_folder(tmp_path / "keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    folder = tmp_path / "plugins"
    write_plugin(folder, "echo", ECHO)
    write_plugin(folder, "gone", ECHO)
    with Daemon(plugins=folder, config={"host.endpoint": endpoint, "host.curve_keys_dir": str(keys)}) as daemon:
        shutil.rmtree(folder / "gone")
        broken = keys / "broken.key"
        broken.write_text("no certificate")
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: "stays in force" in daemon.log, 5, "the refusal")
        assert {row["id"] for row in daemon.operate("daemon.status")["plugins"]} == {"echo", "gone"}
        broken.unlink()
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: "reloaded" in daemon.log, 5, "the reload")
        assert {row["id"] for row in daemon.operate("daemon.status")["plugins"]} == {"echo"}
