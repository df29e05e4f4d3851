"""A real door beside a real daemon, and a caller that sends exactly what a test wants."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple, Self

from tests.support.daemon import USER, Daemon

START_SECONDS = 60.0


class Answer(NamedTuple):
    """One HTTP answer; ``headers`` with names in lower case, ``body`` as JSON if it is that."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """What the JSON says."""
        return json.loads(self.raw)

    @property
    def reason(self) -> str:
        """The machine's word in a problem's details."""
        return str(self.body.get("details", {}).get("reason", ""))


class Door:
    """`apex-exec door` for ``daemon``. A context manager; ``config`` is added to the daemon's file first."""

    def __init__(self, daemon: Daemon, config: dict[str, Any] | None = None, address: str = "127.0.0.1:0") -> None:
        self.daemon = daemon
        self.state = tempfile.mkdtemp(prefix="door", dir=daemon.folder)
        if config:
            daemon.write_config({f"door.{key}": value for key, value in config.items()})
        self.process, self.origin, self.port = self._start(address)

    def _start(self, address: str) -> tuple[subprocess.Popen[str], str, int]:
        command = [sys.executable, "-m", "apex_exec", "door", "--config", str(self.daemon.config_file), "--address",
                   address]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "APEX_EXEC_DOOR__STATE_DIR": self.state})
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        found = re.match(r"door on (\S+:(\d+))\n", first)
        if not found:
            process.wait(START_SECONDS)
            raise AssertionError(f"the door did not start: {first}{process.stderr.read()}")
        return process, found[1], int(found[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Ends it as SIGTERM does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """Ends it as a power cut does."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """At the same address."""
        self.process, self.origin, self.port = self._start(f"127.0.0.1:{self.port}")

    def token(self, name: str = "test", **args: Any) -> str:
        """A new token; for USER and the three common scopes unless ``args`` say otherwise."""
        made = f"apexdoor_{secrets.token_urlsafe(32)}"
        given = {"user": USER, "scopes": ["invoke", "dispatch", "plugins"], "requestsPerMinute": 10_000_000, **args}
        self.daemon.operate("door.token.new", name=name, digest=hashlib.sha256(made.encode()).hexdigest(), **given)
        return made

    def ask(self, method: str, path: str, body: Any = None, token: str = "", timeout: float = 60,
            **headers: str) -> Answer:
        """One request on a connection of its own; underscores of header names are dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            given = {key.replace("_", "-"): value for key, value in headers.items()}
            if token:
                given.setdefault("Authorization", f"Bearer {token}")
            if body is not None:
                given.setdefault("Content-Type", "application/json")
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, given)
            reply = connection.getresponse()
            return Answer(reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def act(self, plugin: str, context: Any, token: str, **headers: str) -> Answer:
        """One call of ``onActionExecute``."""
        return self.ask("POST", "/v1/invoke", {"plugin": plugin, "action": "onActionExecute",
                                               "payload": {"action": "a", "context": context}}, token, **headers)

    def raw(self, *parts: bytes, timeout: float = 10) -> bytes:
        """What comes back for bytes that are sent as they are, until the door closes or says nothing for a while."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as peer:
            try:
                for part in parts:
                    peer.sendall(part)
            except OSError:
                pass  # it has closed already
            found = b""
            try:
                while got := peer.recv(65536):
                    found += got
            except OSError:
                pass
            return found
