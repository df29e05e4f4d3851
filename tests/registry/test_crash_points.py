"""kill -9 at every named point of every operation leaves the old or the new state, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from apex_exec.registry import specs
from apex_exec.registry.bundles.bundle import pack
from tests.registry.conftest import Stage
from tests.support.bundles import bundle

ROOT = Path(__file__).parent.parent.parent
POINTS = {
    "install": ("blob-written", "blob-stored", "row-committed", "validated", "approvals-requested", "published"),
    "upgrade": ("blob-written", "blob-stored", "row-committed", "approvals-requested", "canary-passed", "switched",
                "published", "versions-dropped"),
    "rollback": ("canary-passed", "switched", "published", "versions-dropped"),
    "enable": ("row-committed",), "disable": ("row-committed",), "remove": ("row-committed",),
}

COMMITS = (("install", "row-committed"), ("upgrade", "row-committed"), ("upgrade", "switched"),
           ("remove", "row-committed"))
"""Where the database matters; the other points are about files and notices."""


def crash(stage: Stage, url: str, operation: str, point: str) -> int:
    folder = stage.context.blobs.folder.parent
    done = subprocess.run([sys.executable, "-m", "tests.registry.crash_child", str(folder), url, operation, point],
                          cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


@pytest.mark.parametrize(("url", "operation", "point"), [
    *(("sqlite", operation, point) for operation, points in POINTS.items() for point in points),
    *(("postgresql", operation, point) for operation, point in COMMITS)], indirect=["url"])
@pytest.mark.slow_after(2)
def test_a_kill_leaves_the_old_or_the_new_state_and_the_operation_can_be_done_again(
        stage: Stage, url: str, operation: str, point: str) -> None:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    for minor in (1, 2, 3):  # so that the next upgrade has a version to drop
        stage.later(0.1)
        stage.run("plugin.upgrade", bundle=pack(bundle(version=f"1.{minor}.0")))
    if operation == "enable":
        stage.run("plugin.disable", id="sample")
    before = stage.run("plugin.show", id="sample")
    assert crash(stage, url, operation, point) == -9, "the point was not reached"

    for path in stage.context.blobs.folder.glob("*.apx"):  # what others may be installing is kept for an hour
        os.utime(path, (0, 0))
    told = {spec.id: spec for spec in specs.reconcile(stage.context, sweep=True)}  # what the next start does
    rows = {row["id"]: row for row in stage.run("plugin.list")["plugins"]}
    digests = {v["digest"] for plugin in rows for v in stage.run("plugin.show", id=plugin)["versions"]}
    assert stage.context.blobs.digests() == digests, "a bundle without a row, or a row without its bundle"
    assert all(path.name.endswith(".apx") for path in stage.context.blobs.folder.iterdir()), "a leftover"
    assert {plugin: (spec.version, spec.state) for plugin, spec in told.items()} == {
        plugin: (row["version"], row["state"]) for plugin, row in rows.items()}
    for spec in told.values():
        assert stage.context.blobs.read(spec.digest).manifest.version == spec.version

    if operation == "install":
        assert rows["sample"]["version"] == "1.3.0"
        assert rows.get("fresh", {"state": "registered"})["state"] in ("registered", "validated", "installed")
        assert stage.install(bundle(id="fresh"))["state"] == "installed"
    elif operation == "upgrade":
        assert (rows["sample"]["version"], rows["sample"]["state"]) in (("1.3.0", "enabled"), ("1.4.0", "enabled"))
        stage.run("plugin.upgrade", bundle=pack(bundle("new", version="1.4.0")))
        assert stage.served["sample"].version == "1.4.0" or told["sample"].version == "1.4.0"
    elif operation == "rollback":
        assert rows["sample"]["version"] in ("1.2.0", "1.3.0")
    elif operation == "remove":
        assert "sample" not in rows and stage.run("plugin.remove", id="sample")["changed"] is False
    else:
        assert rows["sample"]["state"] == {"enable": "enabled", "disable": "disabled"}[operation] != before["state"]
