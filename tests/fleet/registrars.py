"""The registrars of several daemons, each a process of its own, with the supervisor's part played by the test.

A daemon's other processes know nothing of the database that registrars share, so what they tell their supervisors is
what the daemons would serve.
"""

from __future__ import annotations

import itertools
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from apex_exec.config import Settings, load_settings
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration import registrar_messages as messages
from apex_exec.wire.side_link import BlockingEnd
from tests.support.daemon import ROOT

RUNS = """
import json, os, sys
from multiprocessing.connection import Connection
ahead = float(sys.argv[3])
if ahead:
    import time
    right = time.time_ns
    time.time_ns = lambda: right() + int(ahead * 1e9)
from apex_exec.daemon.administration.registrar import main
import logging
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
main(Connection(int(sys.argv[1])), json.loads(sys.argv[2]))
"""
TOLD = (messages.Done, messages.Refused, messages.Snapshot, messages.Specs, messages.Removed, messages.Ready,
        messages.Health, messages.LedgerHealth, messages.ChainHealth, messages.Metric, messages.Audit, messages.Spent,
        messages.SettingsOf, messages.SettingsTold, messages.Ask)


class Refused(Exception):
    """An operation was refused: its code and its details."""

    def __init__(self, message: messages.Refused) -> None:
        super().__init__(f"{message.code}: {message.message}")
        self.reason, self.message, self.hint = message.details.get("reason", ""), message.message, str(
            message.details.get("hint", ""))


class Node:
    """One registrar. ``served`` is what its supervisor would serve; ``health`` why `/readyz` would say no."""

    def __init__(self, name: str, folder: Path, url: str, *, ahead_seconds: float = 0.0, **settings: Any) -> None:
        self.name, self.state = name, folder / name
        self.settings: Settings = load_settings(None, {
            "state_dir": str(self.state), "registry.url": url, "market.url": url, "fleet.node": name, **settings})
        self.ahead_seconds = ahead_seconds
        self.served: dict[str, PluginSpec] = {}
        self.health: dict[str, str] = {}
        self.metrics: dict[str, float] = {}
        self.audited: list[Any] = []
        self.is_ready = False
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[Any]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / f"{name}.log"

    # ------------------------------------------------------------------ the process
    def start(self) -> Node:
        """As a supervisor starts it: it knows nothing yet, and nothing is served."""
        self.served, self.is_ready = {}, False
        self.health = {"registry": "the registry has not been read yet"}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        settings = msgspec.json.encode(self.settings.model_dump(mode="json")).decode()
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", RUNS, str(theirs.fileno()), settings, str(self.ahead_seconds)],
                pass_fds=[theirs.fileno()], stderr=log, cwd=ROOT)
        theirs.close()
        self._end = BlockingEnd(ours.detach(), TOLD)
        threading.Thread(target=self._read, args=(self._end,), daemon=True).start()
        return self

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        """What all its runs have logged."""
        return self._log.read_text()

    def _read(self, end: BlockingEnd) -> None:
        handlers: dict[type, Callable[[Any], None]] = {
            messages.Snapshot: self._snapshot, messages.Specs: self._specs, messages.Ask: self._ask,
            messages.Removed: lambda message: self.served.pop(message.plugin, None),
            messages.Ready: lambda _: self._ready(),
            messages.Health: lambda message: self.health.update(registry=message.reason),
            messages.LedgerHealth: lambda message: self.health.update(ledger_head=message.reason),
            messages.ChainHealth: lambda message: self.health.update(chain=message.reason),
            messages.Metric: lambda message: self.metrics.update({message.name: message.value}),
            messages.Audit: lambda message: self.audited.append(message.record),
            messages.SettingsOf: lambda _: None, messages.SettingsTold: lambda _: None,
            messages.Spent: lambda _: None, messages.Done: self._answered, messages.Refused: self._answered}
        self._arriving: dict[str, PluginSpec] = {}
        while (found := end.receive()) is not None:
            for message in found:
                handlers[type(message)](message)

    def _ready(self) -> None:
        self.is_ready = True
        self.health["registry"] = ""

    def _snapshot(self, message: messages.Snapshot) -> None:
        self._arriving.update({spec.id: spec for spec in map(messages.decoded, message.specs)})
        if message.last:
            self.served, self._arriving = self._arriving, {}

    def _specs(self, message: messages.Specs) -> None:
        self.served = {**self.served, **{spec.id: spec for spec in map(messages.decoded, message.specs)}}

    def _ask(self, message: messages.Ask) -> None:
        value: dict[str, Any] = {"executionTimeMs": 1.0, "digest": ""}
        if message.kind == "probe":
            spec = message.params["spec"]
            value = {"hooks": spec["hooks"], "permissions": spec["permissions"], "version": spec["version"],
                     "usesLoop": False}
        self._end.send(messages.Answered(message.number, True, value))

    def _answered(self, message: Any) -> None:
        if (waiting := self._waiting.pop(message.number, None)) is not None:
            waiting.put(message)

    # ------------------------------------------------------------------ what tests ask
    def run(self, op: str, **args: Any) -> Any:
        """One operation's result. Raises Refused."""
        number = next(self._numbers)
        answers = self._waiting[number] = queue.SimpleQueue()
        self._end.send(messages.Op(number, op, args, os.geteuid()))
        answer = answers.get(timeout=120)
        if isinstance(answer, messages.Refused):
            raise Refused(answer)
        return answer.result

    def state_of(self, plugin: str) -> str:
        """The state in which the plugin is served; "" if it is not."""
        spec = self.served.get(plugin)
        return "" if spec is None else spec.state

    def wait_state(self, plugin: str, state: str, seconds: float = 30.0) -> float:
        """Waits for it; how many seconds it took."""
        begun = time.monotonic()
        while self.state_of(plugin) != state:
            assert time.monotonic() < begun + seconds, (
                f"{self.name} serves {plugin} as {self.state_of(plugin)!r} and not {state!r}\n{self.log[-3000:]}")
            time.sleep(0.002)
        return time.monotonic() - begun
