"""A real Ray on loopback: a head and further nodes, each a raylet of its own, with token and TLS on and little memory.

Its addresses are of 127.0.0.2, since Ray takes 127.0.0.1 for the machine's own address to others.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import psutil

from apex_exec.fleet.keeper import WANTED
from tests.support.certificates import certificate_for
from tests.support.fleet import free_port

HOST = "127.0.0.2"
STORE_BYTES = 78_643_200
"""The smallest object store that Ray takes."""
START_SECONDS = 150
HEAD_SECONDS = 5
"""How long raylets wait for a head that is gone before they end; a minute by default."""


class LocalRay:
    """``names`` are the nodes, the first with the head. A context manager; its end kills what is left of it."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.folder = Path(tempfile.mkdtemp(prefix="apr", dir="/tmp"))  # Ray's sockets have 66 characters more
        certificate, private = certificate_for(self.folder, HOST)
        (self.folder / "token").write_text(secrets.token_hex(32))
        self.address = f"{HOST}:{free_port()}"
        self.environment = {
            **os.environ, **WANTED, "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_TLS_SERVER_CERT": str(certificate), "RAY_TLS_SERVER_KEY": str(private),
            "RAY_TLS_CA_CERT": str(certificate), "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "10", "RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_SECONDS)}

    def __enter__(self) -> Self:
        try:
            self.start_head()
            for name in self.names[1:]:
                self.start_node(name)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start_head(self) -> None:
        """The head, and the first node with it."""
        self._start(self.names[0], "--head", "--port", self.address.rpartition(":")[2], "--include-dashboard=false",
                    "--temp-dir", str(self.folder / "ray"))

    def start_node(self, name: str) -> None:
        """A further node, or one that has died, again."""
        self._start(name, "--address", self.address)

    def _start(self, name: str, *more: str) -> None:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ray")), "start", *more, "--node-ip-address", HOST, "--node-name", name,
             "--num-cpus", "1", "--object-store-memory", str(STORE_BYTES)], env=self.environment, capture_output=True,
            text=True, timeout=START_SECONDS)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    # ------------------------------------------------------------------ its processes
    def processes(self, program: str = "") -> list[psutil.Process]:
        """Those of this Ray that run ``program``; all of them but the workers if it is ""."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or [""]
            if program in ("", Path(line[0]).name) and str(self.folder / "ray") in " ".join(line):
                found.append(process)
        return found

    def head(self) -> psutil.Process:
        """The process that knows the cluster."""
        (found,) = self.processes("gcs_server")
        return found

    def raylet(self, name: str) -> psutil.Process:
        """The raylet of a node."""
        (found,) = (one for one in self.processes("raylet") if f"--node-name={name}" in one.cmdline())
        return found

    def keeper(self, name: str) -> psutil.Process | None:
        """The keeper below a node's raylet, if it is there."""
        return next((one for one in self.raylet(name).children() if "Keeper" in _line(one)), None)

    def end(self) -> None:
        """Kills all of it, keepers with it."""
        for raylet in self.processes("raylet"):
            for child in raylet.children(recursive=True):
                _kill(child)
        for process in self.processes():
            _kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def up(self, config: str, *more: str, seconds: float = 180, **environment: str) -> subprocess.CompletedProcess[str]:
        """``apex-exec fleet up`` in this Ray's environment."""
        command = [sys.executable, "-m", "apex_exec", "fleet", "up", "--engine", "ray", "--address", self.address,
                   "--config", config, "--seconds", str(seconds), *more]
        return subprocess.run(command, env={**self.environment, **environment}, capture_output=True, text=True,
                              timeout=seconds + 120)


def _line(process: psutil.Process) -> str:
    """The command line; "" of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _kill(process: Any) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        pass
