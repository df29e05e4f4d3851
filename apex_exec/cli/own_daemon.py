"""A daemon that a verb runs for itself, such as the one of ``plugin call DIR``: what it takes from an operator's
configuration, and one line if it fails."""

from __future__ import annotations

import os
import signal
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_exec.cli.root import EXIT_NO, fail
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from apex_exec.testing import Daemon

TAKEN = ("breaker", "data", "fetch", "hooks", "limits", "pool", "recycle", "sandbox", "security", "ui")
"""Sections of the configuration that say what a plugin meets. The others say where the operator's daemon listens, what
it keeps and which fleet it belongs to: a second daemon would take its sockets, write into its ledger, or join its
fleet."""
TAKEN_KEYS = ("host.max_message_bytes", "registry.bundle_bytes", "registry.bundle_files", "storage.user_bytes",
              "storage.plugin_bytes")


def taken_over(config: Path | None) -> dict[str, Any]:
    """``{dotted key: value}`` of the file's keys that a daemon of a verb takes over. Variables of the environment that
    set other keys are removed from this process's. Raises OSError or ValueError if the file is not TOML; whether its
    keys are valid is to be checked before."""
    from apex_exec.config import ENV_PREFIX

    for name in list(os.environ):
        section, _, rest = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if name.startswith(ENV_PREFIX) and rest and section not in TAKEN and f"{section}.{rest}" not in TAKEN_KEYS:
            del os.environ[name]
    if config is None:
        return {}
    keys = {f"{section}.{key}": value for section, inner in tomllib.loads(config.read_text("utf-8")).items()
            if isinstance(inner, dict) for key, value in inner.items()}
    return {key: value for key, value in keys.items() if key.partition(".")[0] in TAKEN or key in TAKEN_KEYS}


class Ending:
    """``asked``: whether the command was asked to end."""

    asked = False


@contextmanager
def ended_in_order(*, interrupts: bool = True) -> Iterator[Ending]:
    """Has the body end at Ctrl-C, and also if the command is terminated or its terminal is closed: its daemon would
    stay otherwise. For the main thread.

    The body is interrupted by a KeyboardInterrupt. A body that runs until it is ended looks at ``asked`` instead:
    Python drops an exception that comes within a destructor or a weak reference's callback.
    """
    ending = Ending()

    def end(_number: int, _frame: object) -> None:
        ending.asked = True
        if interrupts:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # as under nohup
    for number in before:
        signal.signal(number, end)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    """Starts ``daemon`` and yields it; stops it when the body ends. Ends the command if the daemon does not start, or
    does not end in order: the message has the last line of its log."""
    from apex_exec.testing import DaemonFailed

    try:
        with daemon:
            yield daemon
    except DaemonFailed as error:
        lines = error.log_tail.splitlines()
        fail(f"{error.what}: {clean(lines[-1]) if lines else 'its log is empty'}", EXIT_NO)
