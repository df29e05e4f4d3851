"""What must not be accepted, handed to a real daemon: a clear error, nothing half installed, old plugins served."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError, Client
from apex_exec.registry.bundles.bundle import make_listing, pack
from tests.support import need
from tests.support.bundles import bundle, files, zip_of
from tests.support.daemon import USER, Daemon, wait_for

LONG_MS = 60_000


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, LONG_MS)


def reason(daemon: Daemon, op: str, **args: Any) -> str:
    with pytest.raises(CallError) as caught:
        admin(daemon, op, **args)
    return str(caught.value.details.get("reason", caught.value.code))


def still_served(daemon: Daemon) -> bool:
    with Client(daemon.endpoint) as client:
        reply = client.invoke("good", "onDashboardLoad", USER, {"dashboardId": "d"})
    rows = [row["id"] for row in admin(daemon, "plugin.list")["plugins"]]
    digests = [path.stem for path in (daemon.state / "bundles").iterdir()]
    return bool(reply["result"]) and rows == ["good"] and digests == [bundle(id="good").digest]


def _many() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{number}", b"")
    return out.getvalue()[: 7 * 1024 * 1024]  # what one administrative message holds


BUNDLES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"", "text": lambda: b"hello", "truncated": lambda: pack(bundle())[:-40],
    "bomb": lambda: zip_of({**files(), "z": bytes(100 * 1024 * 1024)}, method=zipfile.ZIP_DEFLATED),
    "many": _many, "outside": lambda: zip_of({**files(), "../x": b""}),
    "absolute": lambda: zip_of({**files(), "/x": b""}),
    "link": lambda: zip_of({**files(), "zz": b"plugin.py"}, mode=stat.S_IFLNK | 0o777),
    "device": lambda: zip_of({**files(), "zz": b""}, mode=stat.S_IFCHR),
    "collision": lambda: zip_of({**files(), "A": b"", "a": b""}), "native": lambda: zip_of({**files(), "x.so": b""}),
    "compiled": lambda: zip_of({**files(), "x.pyc": b""}), "latin": lambda: zip_of({**files(), "x.py": b"\xff"}),
    "undeclared": lambda: zip_of({**files(), "x": b""}, listing=make_listing(files())),
    "missing": lambda: zip_of(files(), listing=make_listing({**files(), "x": b""})),
    "caret": lambda: zip_of(files(apiVersion="^1.0")), "api": lambda: zip_of(files(apiVersion=">=9")),
    "scan": lambda: pack(bundle(code="import os\nos.system('id')\n")),
}


@pytest.mark.slow
def test_every_bad_bundle_is_refused_and_leaves_no_trace() -> None:
    with Daemon(plugins=None) as daemon:
        admin(daemon, "plugin.install", bundle=pack(bundle(id="good")))
        admin(daemon, "plugin.enable", id="good")
        for name, make in BUNDLES.items():
            for op in ("plugin.install", "plugin.register", "plugin.upgrade"):
                if name == "scan" and op != "plugin.install":
                    continue  # registering runs no check of the code, and there is nothing to upgrade
                word = reason(daemon, op, bundle=make())
                assert word not in ("internal", "bug", "INTERNAL"), (name, op, word)
            if name == "scan":
                admin(daemon, "plugin.remove", id="sample")
            assert still_served(daemon), name


@pytest.fixture
def tiny() -> Iterator[tuple[Daemon, Path]]:
    need(os.geteuid() == 0, "mounting a file system needs root")
    with Daemon(plugins=None) as daemon:
        daemon.stop()
        folder = daemon.state / "bundles"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", folder],
                              capture_output=True)
        need(done.returncode == 0, "mounting a tmpfs is not allowed here")
        try:
            daemon.start()
            admin(daemon, "plugin.install", bundle=pack(bundle(id="good")))
            admin(daemon, "plugin.enable", id="good")
            yield daemon, folder
            daemon.stop()
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_and_a_read_only_store_install_nothing_and_serve_what_is_there(tiny: tuple[Daemon, Path]) -> None:
    daemon, folder = tiny
    assert reason(daemon, "plugin.install", bundle=pack(bundle("x" * 200_000))) == "disk_full"
    assert still_served(daemon)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    assert reason(daemon, "plugin.install", bundle=pack(bundle())) == "store_read_only"
    assert still_served(daemon)
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    assert admin(daemon, "plugin.install", bundle=pack(bundle()))["state"] == "installed"


def test_a_registry_on_postgresql_survives_the_servers_connections_being_cut(postgres: Any) -> None:
    with Daemon(plugins=None, config={"registry.url": postgres.url("registrar")}) as daemon:
        admin(daemon, "plugin.install", bundle=pack(bundle(id="good")))
        admin(daemon, "plugin.enable", id="good")
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'registrar'")
        wait_for(lambda: still_served(daemon), 10)
        daemon.stop()
        daemon.start()
        assert still_served(daemon)
