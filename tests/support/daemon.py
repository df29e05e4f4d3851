"""A real daemon for tests: ``apex_exec serve`` on folders of its own, stopped and looked after."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import apex_exec
from apex_exec import testing
from apex_exec.testing import USER, write_bundle
from tests.support import other_user

__all__ = ["ECHO", "EXAMPLES", "MANY", "ROOT", "SLEEP", "USER", "Daemon", "admin_request", "wait_for", "write_plugin"]

ROOT = Path(apex_exec.__file__).parent.parent
EXAMPLES = Path(apex_exec.__file__).parent / "examples" / "plugins"
WORKERS_LOOKS_MAX = 50
INSTALL_MS = 180_000


def wait_for(true: Callable[[], Any], seconds: float, what: str = "it") -> None:
    """Looks until ``true()``; fails after ``seconds``."""
    due = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < due, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


def write_plugin(folder: Path, id_: str, code: str, hooks: tuple[str, ...] = ("onActionExecute",),
                 permissions: tuple[str, ...] = (), **manifest: Any) -> Path:
    """One bundle below ``folder``. ``code`` is the body of the module after ``plugin`` was made. The code declares the
    version that the manifest has."""
    head = "from workers import Plugin\n\n"
    version = manifest.get("version", "1.0.0")
    head += f'plugin = Plugin(id="{id_}", version="{version}", permissions={list(permissions)})\n\n'
    return write_bundle(folder, id_, head + code, hooks, permissions, **manifest)


ECHO = '''
@plugin.hook("onActionExecute")
def act(context, params):
    return {"result": params["context"], "metadata": {}}
'''
SLEEP = '''
import time

@plugin.hook("onActionExecute")
def act(context, params):
    time.sleep(params["context"].get("seconds", 60))
    return {"result": params["context"], "metadata": {}}
'''
MANY = '''
@plugin.hook("onActionExecute")
def act(context, params):
    return {"result": [0.5] * 30_000, "metadata": {}}
'''
"""Its result is too large to be checked in the loop: the process that checks such results is started for it."""


class Daemon(testing.Daemon):
    """``apex_exec.testing.Daemon`` that is started at once, and what only our own tests look at.

    ``plugins`` is a folder of bundles, readable by ``uid``; ``uid`` a user to run as, which takes root; ``wrapper`` a
    command that execs the daemon; ``tree`` where the code lies that is run.
    """

    def __init__(self, folder: Path | str | None = None, plugins: Path | str | None = EXAMPLES,
                 config: dict[str, Any] | None = None, uid: int | None = None,
                 env: dict[str, str] | None = None, wrapper: list[str] | None = None, tree: Path = ROOT) -> None:
        own = folder is None and uid is not None
        super().__init__(other_user.new_folder(uid) if own else folder, plugins_dir=plugins, env=env,
                         config={"audit.min_free_bytes": 0, **(config or {})})
        if own:
            self.remove_folder_at_end = True
        if plugins is None:
            del self.config["plugins_dir"]
            self.configure({})
        self.admin = self.admin_endpoint
        self.uid = uid
        self._wrapper = wrapper or []
        self._tree = tree
        self.start()

    def command(self) -> list[str]:
        """As its user's interpreter runs it, behind the wrapper."""
        command = super().command()
        if self.uid is not None:
            command[0] = other_user.python()
        return [*self._wrapper, *command]

    def environment(self) -> dict[str, str]:
        """Its user's, or that of the tests: what ``conftest.py`` has set counts."""
        return {**(os.environ if self.uid is None else other_user.environment()), **self.env}

    def process_options(self) -> dict[str, Any]:
        """In the tests' own process group, as a shell in the foreground would start it."""
        return {"cwd": self._tree} if self.uid is None else other_user.become(self.uid)

    def start(self) -> None:
        """Waits for the line of the log as well, since some tests read what stands before it."""
        super().start()
        wait_for(lambda: "serving" in self.log_since_start, 10, "the line in the log")

    def write_config(self, changes: dict[str, Any]) -> None:
        """Changes the configuration file; a running daemon hears of it by ``reload``."""
        self.configure(changes)

    def wait_metric(self, series: str, value: float, seconds: float = 5.0) -> None:
        """Waits until a series has ``value``."""
        wait_for(lambda: self.metric(series) == value, seconds, f"{series} = {value}")

    def family(self) -> list[psutil.Process]:
        """Every process below the supervisor."""
        return psutil.Process(self.pid).children(recursive=True)

    def zygote(self) -> psutil.Process:
        """The process that forks the workers."""
        (found,) = (p for p in psutil.Process(self.pid).children() if p.pid == self._admin_status()["zygotePid"])
        return found

    def workers(self) -> list[psutil.Process]:
        """The living workers of plugins: the zygote's children but spares and the dead."""
        for _ in range(WORKERS_LOOKS_MAX):
            status = self._admin_status()
            living = [p for p in psutil.Process(status["zygotePid"]).children() if p.status() != psutil.STATUS_ZOMBIE]
            spares = set(status["spares"]["pids"])
            known = spares.union(*(plugin["pids"] for plugin in status["plugins"]))
            if all(p.pid in known for p in living):
                break
            time.sleep(0.01)  # one was forked, or has ended, and the supervisor has not heard of it yet
        return [p for p in living if p.pid not in spares]

    def pids(self, plugin: str) -> list[int]:
        """The processes that serve ``plugin``, the latest last."""
        return next((row["pids"] for row in self._admin_status()["plugins"] if row["id"] == plugin), [])

    def spares(self) -> list[int]:
        """The processes that wait for a plugin, or are on their way there."""
        pids: list[int] = self._admin_status()["spares"]["pids"]
        return pids

    def wait_spares(self, count: int) -> list[int]:
        """Waits until ``count`` spares are ready; their processes."""
        wait_for(lambda: self._admin_status()["spares"]["ready"] == count, 20, f"{count} spares")
        return self.spares()

    def plugin(self, id_: str) -> dict[str, Any]:
        """``daemon.status`` of one plugin: what is queued, what is on the link, its workers' pids."""
        row: dict[str, Any] = next(row for row in self._admin_status()["plugins"] if row["id"] == id_)
        return row

    def wait_told(self, plugin: str, line: str, seconds: float = 10.0) -> None:
        """Waits until a plugin has printed ``line``: that a hook runs is known from the hook alone."""
        wait_for(lambda: f"plugin {plugin}: {line}\n" in self.log, seconds, f"{line!r} by {plugin}")

    def _admin_status(self) -> dict[str, Any]:
        return admin_request(self.admin, "daemon.status")

    def operate(self, op: str, /, **args: Any) -> Any:
        """One administrative operation; its ``result``. Fails if it is refused."""
        return admin_request(self.admin, op, **args)

    def install(self, bundle: Path) -> None:
        """Installs a bundle and enables it for everybody. On a busy machine the scan and the trial take their time."""
        from apex_exec.client import AdminClient

        with AdminClient(self.admin) as client:
            wait_for(lambda: _is_open(client), 180, "the registry")
            done = client.request("plugin.install", {"path": str(bundle)}, INSTALL_MS)
            client.request("plugin.enable", {"id": done["id"]}, INSTALL_MS)

    def start_registrar(self) -> None:
        """Asks for something that the registrar does, and waits for the answer: without a registry it starts then."""
        from apex_exec.client import AdminClient

        with AdminClient(self.admin) as client:
            wait_for(lambda: _is_open(client), 180, "the registry")


def _is_open(client: Any) -> bool:
    """Whether the registry answers. Its process is started by the first question, which waits for it for ten seconds:
    on a busy machine that is not enough."""
    from apex_exec.client import CallError

    try:
        client.request("plugin.list", timeout_ms=INSTALL_MS)
    except CallError as error:
        if error.details.get("reason") != "store_unusable":
            raise
        return False
    return True


def admin_request(endpoint: str, op: str, **args: Any) -> dict[str, Any]:
    """One operation on the admin endpoint; its ``result``, or an AssertionError with the error's code."""
    import msgspec
    import zmq

    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        dealer.send(msgspec.msgpack.encode({"type": "admin", "id": 1, "op": op, "args": args}))
        assert dealer.poll(30_000), f"{op}: no answer"
        reply: dict[str, Any] = msgspec.msgpack.decode(dealer.recv())
    assert reply["type"] == "adminResult", f"{op}: {reply}"
    result: dict[str, Any] = reply["result"]
    return result
