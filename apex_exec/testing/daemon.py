"""A real daemon as a child process, in a folder of its own: started, called, reloaded, stopped, and its log at hand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from apex_exec.client import AdminClient, Client
from apex_exec.client.protocol import DEFAULT_DEADLINE_MS, HostMethod
from apex_exec.common.short_folder import short_base
from apex_exec.config import load_settings
from apex_exec.readiness import Readiness
from apex_exec.testing.bundles import read_files, replace_bundle
from apex_exec.testing.configuration import to_flags, to_toml, without_overrides

USER = "11111111-2222-4333-8444-555555555555"
"""A user id for calls whose user does not matter."""
START_SECONDS_MAX = 60.0
"""A daemon is ready within a second or two; this is for a machine that is busy with something else."""
STOP_SECONDS_MAX = 20.0
HTTP_SECONDS_MAX = 5.0
LOG_TAIL_CHARACTERS = 3000


class DaemonFailed(AssertionError):
    """The daemon did not start, or did not end as it should: ``what`` says which. ``log_tail`` is the end of its log.

    It is an AssertionError, so that a test runner counts it as a failed test.
    """

    def __init__(self, what: str, log_tail: str) -> None:
        super().__init__(f"{what}; its log ends with:\n{log_tail}")
        self.what = what
        self.log_tail = log_tail


class Daemon:
    """A daemon on ``folder``, which gets its sockets (``run``), its state (``state``) and its ``log``.

    A context manager that starts the daemon, stops it, and removes the folder if it made it (None: a temporary folder
    with a short path, since the path of a Unix socket has 107 bytes at most). ``plugins_dir`` is served as it is; None
    serves ``folder/plugins``, which ``put_plugin`` fills. ``config`` has dotted keys and wins over ``config_file``, a
    configuration of yours. ``env`` is added to this process's environment. ``output`` takes the log instead of a file.
    Nothing here blocks without a bound. For one thread at a time.
    """

    def __init__(self, folder: Path | str | None = None, *, plugins_dir: Path | str | None = None,
                 config: Mapping[str, Any] | None = None, config_file: Path | str | None = None,
                 env: Mapping[str, str] | None = None, output: IO[bytes] | int | None = None) -> None:
        self.remove_folder_at_end = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="apx", dir=short_base()) if folder is None else folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.plugins_dir = Path(plugins_dir) if plugins_dir is not None else self.folder / "plugins"
        if plugins_dir is None:
            self.plugins_dir.mkdir(exist_ok=True)
        self.log_path = self.folder / "log"
        self.config: dict[str, Any] = {
            "runtime_dir": str(self.folder / "run"), "state_dir": str(self.folder / "state"),
            "plugins_dir": str(self.plugins_dir), "http.address": "127.0.0.1:0"}
        self.config_file = Path(config_file) if config_file is not None else self.folder / "config.toml"
        self._owns_config = config_file is None
        self.env = dict(env or {})
        """Variables of the daemon that is started next."""
        self._process: subprocess.Popen[bytes] | None = None
        self._output = output
        self._log_begin = 0
        self._client: Client | None = None
        try:
            self.configure(config or {})
        except BaseException:
            self._remove_folder()
            raise

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Changes keys of the configuration; a running daemon takes them over by ``reload``. Raises ConfigError if a
        ``config_file`` is wrong; a daemon refuses a wrong ``config`` when it starts."""
        self.config.update(changes)
        self.runtime, self.state = Path(self.config["runtime_dir"]), Path(self.config["state_dir"])
        self.endpoint: str = self.config.get("host.endpoint") or f"ipc://{self.runtime}/host.sock"
        self.admin_endpoint: str = self.config.get("admin.endpoint") or f"ipc://{self.runtime}/admin.sock"
        if self._owns_config:
            self.config_file.write_text(to_toml(self.config))
        else:
            settings = load_settings(self.config_file, self.config)
            self.endpoint, self.admin_endpoint = settings.host_endpoint, settings.admin_endpoint

    # ------------------------------------------------------------------ its life
    def command(self) -> list[str]:
        """The command that runs the daemon; for subclasses to replace."""
        flags = [] if self._owns_config else to_flags(self.config)
        return [sys.executable, "-m", "apex_exec", "serve", "--config", str(self.config_file), *flags]

    def environment(self) -> dict[str, str]:
        """The daemon's environment; for subclasses to replace. No variable of this process wins over ``config``."""
        return {**without_overrides(os.environ, self.config), **self.env}

    def process_options(self) -> dict[str, Any]:
        """More arguments for ``subprocess.Popen``; for subclasses to replace.

        The daemon has a process group of its own, so that ctrl-C at a terminal ends the caller, who ends the daemon in
        order.
        """
        return {"process_group": 0, "stdin": subprocess.DEVNULL}

    def start(self) -> None:
        """Starts the daemon and waits until it serves. Raises DaemonFailed."""
        with self.launch() as readiness:
            due = time.monotonic() + START_SECONDS_MAX
            while not readiness.is_ready():
                self.check_starting(due)

    def launch(self) -> Readiness:
        """Starts the daemon without waiting for it; close what is returned when it has said that it is ready."""
        readiness = Readiness(self.folder)
        self._log_begin = self.log_path.stat().st_size if self.log_path.exists() else 0
        try:
            with contextlib.ExitStack() as stack:
                output = self._output
                if output is None:
                    output = stack.enter_context(self.log_path.open("ab"))
                self._process = subprocess.Popen(self.command(), stdout=output, stderr=output, **{
                    "env": {"NOTIFY_SOCKET": readiness.address, **self.environment()}, **self.process_options()})
        except BaseException:
            readiness.close()
            raise
        return readiness

    def check_starting(self, due: float) -> None:
        """Raises DaemonFailed if the daemon has ended; kills it and raises if the monotonic time ``due`` has passed."""
        if (status := self.process.poll()) is not None:
            raise DaemonFailed(f"the daemon ended with status {status} before it was ready", self._log_tail())
        if time.monotonic() > due:
            self.kill()
            raise DaemonFailed("the daemon was not ready in time", self._log_tail())

    def stop(self, seconds: float = STOP_SECONDS_MAX) -> int:
        """Ends the daemon as SIGTERM does and returns its exit status, 0 if it ended in order. Raises DaemonFailed and
        kills it if it has not ended after ``seconds``. A daemon that has ended already keeps its status."""
        self._close_client()
        process = self.process
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise DaemonFailed(f"the daemon did not stop within {seconds:g} s", self._log_tail()) from None
            except KeyboardInterrupt:
                self.kill()  # the user who presses ctrl-C again cannot wait
                raise
        return int(process.returncode)

    def kill(self) -> None:
        """Kills the daemon (SIGKILL), as a machine without memory would. ``start`` starts it again on its folder."""
        self._close_client()
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        """Sends a signal to the supervisor."""
        self.process.send_signal(number)

    def is_running(self) -> bool:
        """Whether the daemon's process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self.process.pid

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The daemon's process; the last one if it has ended. Raises RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError("the daemon has not been started: use `with Daemon(...)` or call start()")
        return self._process

    def __enter__(self) -> Self:
        try:
            if self._process is None:
                self.start()
        except BaseException:
            if self.is_running():  # ctrl-C, before the daemon had said that it is ready
                self.kill()
            self._remove_folder()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            error.add_note(f"The daemon's log ends with:\n{self._log_tail()}")
        try:
            status = self.stop()
            if kind is None and status not in (0, -signal.SIGKILL):
                raise DaemonFailed(f"the daemon ended with status {status}", self._log_tail())
        finally:
            self._remove_folder()

    def _remove_folder(self) -> None:
        if self.remove_folder_at_end:
            shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ what it serves
    def put_plugin(self, bundle: Path | str) -> str:
        """Serves a copy of the folder ``bundle``, in place of what had its id before; returns the id.

        Raises ``apex_exec.client.CallError`` if a running daemon refuses it: then the daemon serves what it served.
        """
        files = read_files(bundle)
        id_: str = json.loads(files["manifest.json"])["id"]
        self.put_files(id_, files)
        return id_

    def put_files(self, id_: str, files: Mapping[str, bytes]) -> None:
        """The same for a bundle without a folder: ``{path below the bundle: content}``."""
        if not id_ or "/" in id_ or id_.startswith("."):
            raise ValueError(f"{id_!r} is not a plugin id: it cannot name a folder")
        replace_bundle(self.plugins_dir / id_, files, self.folder)
        self._reload_if_running()

    def remove_plugin(self, id_: str) -> None:
        """Ends serving a plugin of ``plugins_dir`` and deletes its folder there."""
        shutil.rmtree(self.plugins_dir / id_)
        self._reload_if_running()

    def reload(self) -> dict[str, Any]:
        """Has the daemon read its configuration and plugins again; which keys it ``applied`` and which need a
        ``restart``. Raises ``apex_exec.client.CallError`` if it refuses, and then nothing has changed."""
        outcome: dict[str, Any] = self.operate("daemon.reload")
        return outcome

    def _reload_if_running(self) -> None:
        if self.is_running():
            self.reload()

    # ------------------------------------------------------------------ calls
    @property
    def client(self) -> Client:
        """A host's connection to the daemon, made when first used and closed with the daemon."""
        if self._client is None:
            self._client = Client(self.endpoint)
        return self._client

    def invoke(self, plugin: str, hook: str, payload: Mapping[str, Any] | None = None, user_id: str = USER,
               deadline_ms: int = DEFAULT_DEADLINE_MS) -> Any:
        """Runs one hook and returns what it returned. Raises ``apex_exec.client.CallError`` if the call fails."""
        return self.client.invoke(plugin, hook, user_id, payload, deadline_ms)["result"]

    def dispatch(self, hook: str, payload: Mapping[str, Any] | None = None, user_id: str = USER,
                 deadline_ms: int = DEFAULT_DEADLINE_MS) -> dict[str, Any]:
        """One event to every plugin that declares the hook: ``result``, and ``outcomes`` with one entry a plugin."""
        return self.client.dispatch(hook, user_id, payload, deadline_ms)

    def provide(self, methods: Mapping[str, HostMethod]) -> None:
        """Answers ``context.api.call`` of plugins with ``methods``, functions of a ``HostCall``, while ``invoke`` or
        ``dispatch`` waits."""
        self.client.provide(methods)

    def operate(self, op: str, /, **args: Any) -> Any:
        """One operation of the administration table. Raises ``apex_exec.client.CallError`` if it is refused."""
        with AdminClient(self.admin_endpoint) as admin:
            return admin.request(op, args)

    def status(self, plugin: str) -> dict[str, Any]:
        """One plugin's row of ``daemon.status``: its state, its queue, its workers' process ids."""
        rows: list[dict[str, Any]] = self.operate("daemon.status")["plugins"]
        return next(row for row in rows if row["id"] == plugin)

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # ------------------------------------------------------------------ what it says
    @property
    def log(self) -> str:
        """What the daemon has logged so far, and what its plugins have printed. Empty if ``output`` takes the log."""
        return self._read_log(0)

    @property
    def log_since_start(self) -> str:
        """The same since the last start."""
        return self._read_log(self._log_begin)

    def _read_log(self, begin: int) -> str:
        return self.log_path.read_bytes()[begin:].decode("utf-8", "replace") if self.log_path.exists() else ""

    def _log_tail(self) -> str:
        return self.log[-LOG_TAIL_CHARACTERS:].strip() or "(nothing)"

    @property
    def http(self) -> str:
        """The address of /metrics, /livez and /readyz, as ``http://127.0.0.1:…``."""
        due = time.monotonic() + HTTP_SECONDS_MAX
        while not (found := re.search(r"metrics on (http://\S+)/metrics", self.log_since_start)):
            if time.monotonic() > due:
                raise DaemonFailed("the daemon's log does not say where its metrics are (log.level is info?)",
                                   self._log_tail())
            time.sleep(0.01)  # the daemon serves, but its log is written by a thread of its own
        return found[1]

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of one HTTP request, as ``get("/readyz")``."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> str:
        """One scrape."""
        return self.get("/metrics")[1]

    def metric(self, series: str) -> float:
        """The value of one series, written as in a scrape without the prefix ``apex_exec_``; 0 if there is none."""
        for line in self.metrics().splitlines():
            name, _, value = line.rpartition(" ")
            if name == "apex_exec_" + series:
                return float(value)
        return 0.0
