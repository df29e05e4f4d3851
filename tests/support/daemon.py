"""A real daemon for tests: ``apex_exec serve`` on folders of its own, stopped and looked after."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import apex_exec
from tests.support import other_user

ROOT = Path(apex_exec.__file__).parent.parent
EXAMPLES = Path(apex_exec.__file__).parent / "examples" / "plugins"
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 20.0
WORKERS_LOOKS_MAX = 50
USER = "11111111-2222-4333-8444-555555555555"


def wait_for(true: Callable[[], Any], seconds: float, what: str = "it") -> None:
    """Looks until ``true()``; fails after ``seconds``."""
    due = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < due, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


def toml(config: dict[str, Any]) -> str:
    """``{dotted key: value}`` as TOML. A dict below a key is an inline table."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in config.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def write_plugin(folder: Path, id_: str, code: str, hooks: tuple[str, ...] = ("onActionExecute",),
                 permissions: tuple[str, ...] = (), **manifest: Any) -> Path:
    """One bundle below ``folder``. ``code`` is the body of the module after ``plugin`` was made."""
    target = folder / id_
    target.mkdir(parents=True, exist_ok=True)
    (target / "manifest.json").write_text(json.dumps({
        "id": id_, "name": id_, "version": "1.0.0", "author": "tests", "permissions": list(permissions),
        "manifest": {"entrypoint": "plugin.py", "hooks": list(hooks)}, **manifest}))
    head = "from workers import Plugin\n\n"
    head += f'plugin = Plugin(id="{id_}", version="1.0.0", permissions={list(permissions)})\n\n'
    (target / "plugin.py").write_text(head + code)
    return target


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


class Daemon:
    """A running daemon; a context manager that stops it.

    ``folder`` (None: a short temporary one, since socket paths are short) gets ``run``, ``state`` and ``log``.
    ``plugins`` is a folder of bundles, readable by ``uid``; ``config`` dotted keys; ``uid`` a user to run as, which
    takes root; ``wrapper`` a command that execs the daemon; ``tree`` where the code lies that is run.
    """

    def __init__(self, folder: Path | str | None = None, plugins: Path | str | None = EXAMPLES,
                 config: dict[str, Any] | None = None, uid: int | None = None,
                 env: dict[str, str] | None = None, wrapper: list[str] | None = None, tree: Path = ROOT) -> None:
        self._own = folder is None
        if folder is None:
            folder = tempfile.mkdtemp(prefix="apx") if uid is None else other_user.new_folder(uid)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.runtime, self.state = self.folder / "run", self.folder / "state"
        self.endpoint = f"ipc://{self.runtime}/host.sock"
        self.admin = f"ipc://{self.runtime}/admin.sock"
        self.log_path = self.folder / "log"
        self.config_path = self.folder / "config.toml"
        self.config: dict[str, Any] = {
            "runtime_dir": str(self.runtime), "state_dir": str(self.state), "http.address": "127.0.0.1:0",
            "audit.min_free_bytes": 0}
        if plugins is not None:
            self.config["plugins_dir"] = str(plugins)
        self.uid = uid
        self._env = env or {}
        self._wrapper = wrapper or []
        self._tree = tree
        self.write_config(config or {})
        self.start()

    def write_config(self, changes: dict[str, Any]) -> None:
        """Changes the configuration file; a running daemon hears of it by ``reload``."""
        self.config.update(changes)
        self.config_path.write_text(toml(self.config))

    def start(self) -> None:
        """Starts the process and waits until it serves."""
        python, who, env = sys.executable, {"cwd": self._tree}, {**os.environ, **self._env}
        if self.uid is not None:
            python, who = other_user.python(), other_user.become(self.uid)
            env = {**other_user.environment(), **self._env}
        command = [*self._wrapper, python, "-m", "apex_exec", "serve", "--config", str(self.config_path)]
        if self.config.get("host.endpoint", "").startswith("tcp://"):
            self.endpoint = self.config["host.endpoint"]
        with self.log_path.open("a") as log:
            begin = self.log_path.stat().st_size
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=env, **who)
        due = time.monotonic() + START_SECONDS_MAX
        while "serving" not in self.log[begin:]:
            if self.process.poll() is not None or time.monotonic() > due:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the daemon did not start:\n{self.log[-3000:]}")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def http(self) -> str:
        """The address of /metrics, /livez and /readyz."""
        return self.log.rpartition("metrics on ")[2].split()[0].removesuffix("/metrics")

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of one HTTP request."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> str:
        """One scrape."""
        return self.get("/metrics")[1]

    def metric(self, series: str) -> float:
        """The value of one series, written as in a scrape without the prefix; 0 where it is not there."""
        for line in self.metrics().splitlines():
            name, _, value = line.rpartition(" ")
            if name == "apex_exec_" + series:
                return float(value)
        return 0.0

    def wait_metric(self, series: str, value: float, seconds: float = 5.0) -> None:
        """Waits until a series has ``value``."""
        wait_for(lambda: self.metric(series) == value, seconds, f"{series} = {value}")

    def signal(self, number: int) -> None:
        """Sends a signal to the supervisor."""
        self.process.send_signal(number)

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

    def operate(self, op: str, **args: Any) -> dict[str, Any]:
        """One administrative operation; its ``result``. Fails where it is refused."""
        return admin_request(self.admin, op, **args)

    def start_registrar(self) -> None:
        """Asks for something that the registrar does, and waits for the answer: without a registry it starts then."""
        self.operate("plugin.list")

    def stop(self, seconds: float = STOP_SECONDS_MAX) -> int:
        """SIGTERM; the exit status. A daemon that is stopped already keeps its status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the daemon did not stop:\n{self.log[-3000:]}") from None
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            status = self.stop()
            if kind is None and status not in (0, -signal.SIGKILL):
                raise AssertionError(f"the daemon ended with {status}:\n{self.log[-3000:]}")
        finally:
            if self._own:
                shutil.rmtree(self.folder, ignore_errors=True)


def admin_request(endpoint: str, op: str, **args: Any) -> dict[str, Any]:
    """One operation on the admin endpoint; its ``result``, or an AssertionError with the error's code."""
    import msgspec
    import zmq

    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        dealer.send(msgspec.msgpack.encode({"type": "admin", "id": 1, "op": op, "args": args}))
        assert dealer.poll(15_000), f"{op}: no answer"
        reply: dict[str, Any] = msgspec.msgpack.decode(dealer.recv())
    assert reply["type"] == "adminResult", f"{op}: {reply}"
    result: dict[str, Any] = reply["result"]
    return result
