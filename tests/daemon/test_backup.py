"""A backup is made while calls run, is whole, and comes back as it was; if it is not whole, or older, that is said."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import Client
from apex_exec.config import load_settings
from apex_exec.daemon.administration import backup
from apex_exec.errors import Refusal
from apex_exec.ledger.checkpoints import load_key, write_anchors
from apex_exec.ledger.reading import Filter, read_events
from apex_exec.ledger.verify import verify
from apex_exec.registry.bundles.bundle import pack
from tests.cli.test_framework import run
from tests.daemon.test_operating import at, load
from tests.support.bundles import bundle
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin

INSTALLED = """
from workers import Plugin
plugin = Plugin(id="sample", version="1.0.0", permissions=[])
@plugin.hook("onDashboardLoad")
def load(params):
    return {"customWidgets": []}
"""


def executions(database: Path) -> int:
    return sum(1 for _ in read_events(database, Filter(event_types=frozenset(("plugin.execution",)))))


def restored(daemon: Daemon, source: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run("restore", str(source), "--config", str(daemon.config_file), *more)


def install(daemon: Daemon) -> None:
    made = bundle(code=INSTALLED, permissions=[])
    daemon.operate("plugin.install", bundle=pack(made))
    daemon.operate("plugin.enable", id="sample")


def answers(daemon: Daemon, plugin: str = "sample") -> bool:
    with Client(daemon.endpoint) as host:
        return host.invoke(plugin, "onDashboardLoad", USER, {"dashboardId": "d"})["result"] == {"customWidgets": []}


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    return tmp_path / "plugins"


@pytest.mark.slow
def test_a_backup_under_load_is_whole_and_comes_back_as_it_was(plugins: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "copy", tmp_path / "copy.tgz"
    with Daemon(plugins=plugins) as daemon:
        install(daemon)
        with load(daemon) as (found, _):
            wait_for(lambda: found["ok"] > 50, 20, "calls")
            before = executions(daemon.state / "audit.db")
            made = at(daemon, "backup", str(folder), "--json")
            assert made.returncode == 0, made.stderr
            packed = at(daemon, "backup", str(file))
            assert packed.returncode == 0 and "verified" in packed.stdout, packed
            count = found["ok"]
            wait_for(lambda: found["ok"] > count + 20, 20, "calls after it")
        assert set(found) == {"ok"}, "no call noticed it"
        told = json.loads(made.stdout)
        assert told["databases"] == ["audit", "audit.people", "market", "registry"] or "data" in told["databases"]
        assert told["outside"] == [] and told["ledgerSeq"] >= before
        wait_for(lambda: daemon.metric("backup_last_success_seconds") > 1e9, 5)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE(file.stat().st_mode) == 0o600
        assert not list(tmp_path.glob(".*")), "no half of it is left"
        assert executions(folder / "databases" / "audit.db") >= before
        assert verify(folder / "databases" / "audit.db", folder / "state").finding is None
        assert daemon.stop() == 0
        shutil.move(daemon.state, tmp_path / "old")
        for source in (folder, file):
            done = restored(daemon, source)
            assert done.returncode == 0 and "verified" in done.stdout, done.stderr
            verified = run("audit", "verify", "--config", str(daemon.config_file))
            assert verified.returncode == 0, verified.stderr
            daemon.start()
            assert answers(daemon) and daemon.operate("plugin.show", id="sample")["state"] == "enabled"
            opened = [path for path in daemon.state.rglob("*") if path.stat().st_mode & 0o077]
            assert not opened, "what is put back is closed to others"
            (event,) = (e for e in read_events(daemon.state / "audit.db", Filter()) if e.action == "state.restore")
            assert event.metadata["missingEvents"] == 0
            assert daemon.stop() == 0
            assert run("audit", "verify", "--config", str(daemon.config_file)).returncode == 0
            shutil.rmtree(daemon.state)
        assert not list(daemon.folder.glob(".*"))


@pytest.mark.slow
def test_an_older_copy_is_noticed_by_the_anchor_and_accepted_only_by_name(plugins: Path, tmp_path: Path) -> None:
    anchor = tmp_path / "elsewhere" / "anchor"
    anchor.parent.mkdir()
    with Daemon(plugins=plugins, config={"audit.anchor": str(anchor)}) as daemon:
        install(daemon)
        daemon.operate("state.backup", path=str(tmp_path / "copy.tar"))
        with load(daemon):
            pass
        assert daemon.stop() == 0
        noted = anchor.read_bytes()
        shutil.rmtree(daemon.state)
        refused = restored(daemon, tmp_path / "copy.tar")
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
        assert "events further" in refused.stderr and "--accept-older" in refused.stderr
        assert not daemon.state.exists() and anchor.read_bytes() == noted, "nothing was changed"
        assert restored(daemon, tmp_path / "copy.tar", "--accept-older").returncode == 1, "a reason is due"
        done = restored(daemon, tmp_path / "copy.tar", "--accept-older", "--reason", "the disk is lost", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["missingEvents"] > 5 and Path(told["anchorKept"]).read_bytes() == noted
        daemon.start()
        assert answers(daemon) and daemon.get("/readyz")[0] == 200
        (event,) = (e for e in read_events(daemon.state / "audit.db", Filter()) if e.action == "state.restore")
        assert event.metadata["missingEvents"] == told["missingEvents"] and event.metadata["uid"] == os.geteuid()
        assert event.metadata["reason"] == "the disk is lost"
        assert daemon.stop() == 0
        verified = run("audit", "verify", "--config", str(daemon.config_file))
        assert verified.returncode == 0, verified.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup as a folder."""
    folder = tmp_path_factory.mktemp("made")
    with Daemon(plugins=None) as daemon:
        install(daemon)
        daemon.operate("state.backup", path=str(folder / "copy"))
    return folder / "copy"


def settings(tmp_path: Path) -> Any:
    return load_settings(None, {"state_dir": str(tmp_path / "state"), "runtime_dir": str(tmp_path / "run")})


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    contents = json.loads((folder / backup.LIST).read_text())
    change(contents)
    (folder / backup.LIST).write_text(json.dumps(contents))


def _flip(folder: Path) -> None:
    path = folder / "databases" / "registry.db"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit_event(folder: Path) -> None:
    """Changes an event, and the list with it: somebody who can do that still cannot sign the chain."""
    path = folder / "databases" / "audit.db"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE events SET body = replace(body, 'success', 'failure') WHERE seq = 1")
    database.close()
    entry = backup._entry(path, "databases/audit.db")
    _edit(folder, lambda contents: contents.update(files=[
        one if one["path"] != entry.path else {"path": entry.path, "size": entry.size, "sha256": entry.sha256}
        for one in contents["files"]]))


def _name(name: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        _edit(folder, lambda contents: contents["files"].append({"path": name, "size": 0, "sha256": "0" * 64}))

    return rename


@pytest.mark.parametrize(("damage", "reason"), [
    (_flip, "backup_damaged"), (_edit_event, "backup_damaged"),
    (lambda folder: (folder / "state" / "audit.head").unlink(), "backup_damaged"),
    (lambda folder: (folder / backup.LIST).unlink(), "no_backup"),
    (lambda folder: (folder / backup.LIST).write_text("{}"), "backup_damaged"),
    (lambda folder: _edit(folder, lambda contents: contents.update(format=9)), "other_format"),
    (lambda folder: _edit(folder, lambda contents: contents["files"].pop()), "backup_damaged"),
    (lambda folder: _edit(folder, lambda contents: contents["files"].append(contents["files"][0])), "backup_damaged"),
    (_name("../../evil"), "backup_damaged"), (_name("/etc/evil"), "backup_damaged"),
    (_name("state/../../evil"), "backup_damaged"), (_name("elsewhere/evil"), "backup_damaged"),
    (_name("state"), "backup_damaged"), (_name("state/a\0b"), "backup_damaged")])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.slow_after(16)
def test_what_is_not_what_was_written_is_refused_and_changes_nothing(made: Path, tmp_path: Path, packed: bool,
                                                                    damage: Any, reason: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    damage(copy)
    if packed:
        with tarfile.open(tmp_path / "copy.tar", "w") as archive:
            for path in sorted(path for path in copy.rglob("*") if path.is_file()):
                archive.add(path, str(path.relative_to(copy)))
        copy = tmp_path / "copy.tar"
    with pytest.raises(Refusal) as caught:
        backup.restore(settings(tmp_path), copy)
    assert caught.value.reason == reason, caught.value
    assert not (tmp_path / "state").exists() and not list(tmp_path.glob(".*"))


def test_a_packed_backup_that_is_damaged_or_cut_is_refused(made: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "copy.tgz", "w:gz") as archive:
        archive.add(made / backup.LIST, backup.LIST)
        for path in sorted(path for path in made.rglob("*") if path.is_file() and path.name != backup.LIST):
            archive.add(path, str(path.relative_to(made)))
    whole = (tmp_path / "copy.tgz").read_bytes()
    for place in (0, 1, len(whole) // 3, len(whole) // 2, None):
        data = bytearray(whole)
        if place is None:
            del data[len(data) // 2:]
        else:
            data[place] ^= 0x55
        (tmp_path / "copy.tgz").write_bytes(data)
        with pytest.raises(Refusal):
            backup.restore(settings(tmp_path), tmp_path / "copy.tgz")
        assert not (tmp_path / "state").exists() and not list(tmp_path.glob(".*"))


def test_an_older_backup_takes_the_operators_word_and_leaves_it_in_the_ledger(made: Path, tmp_path: Path) -> None:
    """As ``test_an_older_copy…``, without a daemon: an anchor of the same ledger that has been further."""
    seq = json.loads((made / backup.LIST).read_text())["ledgerSeq"]
    anchor = tmp_path / "anchor"
    write_anchors([anchor], seq + 7, bytes(32), load_key(made / "state"))
    given = settings(tmp_path).model_copy(update={"audit": settings(tmp_path).audit.model_copy(update={
        "anchor": str(anchor)})})
    with pytest.raises(Refusal) as caught:
        backup.restore(given, made)
    assert (caught.value.reason, caught.value.details) == ("older_than_anchor", {"missingEvents": 7})
    with pytest.raises(Refusal) as caught:
        backup.restore(given, made, accept_older=True)
    assert caught.value.reason == "reason_missing" and not (tmp_path / "state").exists()
    done = backup.restore(given, made, accept_older=True, reason="the disk is lost")
    assert done["missingEvents"] == 7 and Path(done["anchorKept"]).exists()
    (event,) = (e for e in read_events(tmp_path / "state" / "audit.db", Filter()) if e.action == "state.restore")
    assert event.metadata["missingEvents"] == 7 and event.metadata["reason"] == "the disk is lost"
    found = verify(tmp_path / "state" / "audit.db", tmp_path / "state", anchor=str(anchor))
    assert found.finding is None and found.last == seq + 1


def test_a_link_in_a_backup_is_not_followed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "secret").write_bytes((made / "state" / "audit.head").read_bytes())
    (tmp_path / "copy" / "state" / "audit.head").unlink()
    (tmp_path / "copy" / "state" / "audit.head").symlink_to(tmp_path / "secret")
    with pytest.raises(Refusal):
        backup.restore(settings(tmp_path), tmp_path / "copy")
    with tarfile.open(tmp_path / "copy.tar", "w") as archive:
        archive.add(tmp_path / "copy", ".")
        archive.add(made / backup.LIST, backup.LIST)
        archive.add(tmp_path / "copy" / "state" / "audit.head", "state/audit.head")
    with pytest.raises(Refusal):
        backup.restore(settings(tmp_path), tmp_path / "copy.tar")
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_a_state_that_is_not_empty_or_served_is_not_touched(made: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    assert backup.restore(settings(tmp_path), made)["files"] > 5, "an empty folder is taken"
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    with pytest.raises(Refusal) as caught:
        backup.restore(settings(tmp_path), made)
    assert caught.value.reason == "state_not_empty"
    with Daemon(plugins=None) as daemon:
        refused = restored(daemon, made)
        assert refused.returncode == 1 and "a daemon is still running on" in refused.stderr
        elsewhere = restored(daemon, made, "--state-dir", str(tmp_path / "other"))
        assert elsewhere.returncode == 1 and "a daemon is still running on" in elsewhere.stderr


@pytest.mark.slow
def test_where_a_backup_cannot_go_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with Daemon(plugins=None) as daemon:
        (tmp_path / "there").mkdir()
        (tmp_path / "file.tar").write_text("precious")
        for path, says in ((tmp_path / "there", "already exists"), (tmp_path / "file.tar", "already exists"),
                           (daemon.state / "copy", "inside the state folder"),
                           (tmp_path / "no" / "x", "does not exist")):
            done = at(daemon, "backup", str(path))
            assert done.returncode == 1 and done.stderr.count("\n") == 1 and says in done.stderr, done
        with pytest.raises(AssertionError, match="not an absolute path"):
            daemon.operate("state.backup", path="relative")
        assert (tmp_path / "file.tar").read_text() == "precious"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file.tar", "there"]


@pytest.mark.slow
def test_a_ledger_that_lies_elsewhere_is_in_the_backup_and_goes_back_there(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    config = {"audit.url": f"sqlite:///{tmp_path}/ledger/audit.db", "data.url": f"sqlite:///{tmp_path}/platform.db"}
    with Daemon(plugins=None, config=config) as daemon:
        install(daemon)
        sqlite3.connect(tmp_path / "platform.db").close()
        (tmp_path / "platform.db").touch()
        told = daemon.operate("state.backup", path=str(tmp_path / "copy"))
        assert "audit" in told["databases"] and told["outside"] == ["data.url"]
        assert daemon.stop() == 0
        shutil.rmtree(daemon.state)
        refused = restored(daemon, tmp_path / "copy")
        assert refused.returncode == 1 and "named by audit.url" in refused.stderr
        for path in (tmp_path / "ledger").iterdir():
            path.unlink()
        assert restored(daemon, tmp_path / "copy").returncode == 0
        daemon.start()
        assert answers(daemon)
    assert (tmp_path / "ledger" / "audit.db").exists()
