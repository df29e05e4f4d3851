"""``plugin debug``: a daemon whose one worker is unjailed and waits for a debugger, on an author's own machine."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli.output import say
from apex_exec.cli.own_daemon import Ending, ended_in_order, running, taken_over
from apex_exec.cli.plugin.common import settings_with_hooks
from apex_exec.cli.root import EXIT_NO, ConfigFile, examples, fail, need_linux, our_command, plugin_app
from apex_exec.cli.verbs import Argument, Option

HOUR_MS = 3_600_000
POLL_SECONDS = 0.2
WAIT_SECONDS_MAX = 60.0
UNJAILED: dict[str, Any] = {
    "sandbox.min_level": "L0",
    "sandbox.waive": ["fds", "env", "session", "cgroup", "namespaces", "rlimits", "identity", "no_new_privs",
                      "landlock", "seccomp", "selftest"],
    "limits.timeout_ms": HOUR_MS, "limits.cpu_percent": 100.0, "limits.memory_mb": 16_384, "pool.spare_workers": 1,
    "pool.idle_seconds": HOUR_MS / 1000, "pool.boot_seconds": 600.0, "breaker.ends": 1000,
    "log.plugin_lines_per_second": 1000}
"""The worker still dies with its daemon (pdeathsig). One spare waits, so that a debugger can attach before a call."""
WARNING = ("UNJAILED: {id} runs as you, with your files and your network. Debug only plugins that you trust, "
           "never on a server.")


@plugin_app.command(epilog=examples("apex-exec plugin debug ./my-plugin", "apex-exec plugin debug . --port 5679"))
def debug(
    folder: Annotated[Path, Argument(metavar="DIR", help="The bundle's folder.")],
    port: Annotated[int, Option("--port", min=1, max=65_535, help="Where the debugger listens on 127.0.0.1.")] = 5678,
    config: ConfigFile = None,
) -> None:
    """Runs a Python plugin under debugpy WITHOUT THE JAIL, for a debugger to attach to. Ctrl-C ends it.

    Before it stands a real daemon: payloads, permissions, results, queries and requests are as always; the deadline is
    an hour. Breakpoints are set in the files of DIR, and no mapping of paths is needed. Needs the extra `debug`.
    """
    need_linux()
    from apex_exec import extras
    from apex_exec.registry.bundles.bundle import read_folder

    extras.need("debug", "plugin debug")
    settings_with_hooks(config)
    bundle = read_folder(folder)
    if not bundle.entrypoint.endswith(".py"):
        fail(f"{bundle.entrypoint} is not Python; debug a plugin in JavaScript by its tests: node --inspect-brk --test",
             EXIT_NO)
    if _is_taken(port):
        fail(f"127.0.0.1:{port} is in use; name another with --port", EXIT_NO)
    say(WARNING.format(id=bundle.manifest.id), file=sys.stderr, flush=True)
    daemon = _daemon(folder, port, config)
    with ended_in_order(interrupts=False) as ending, running(daemon):
        _say_how(bundle, daemon, port, ending)
        while daemon.is_running() and not ending.asked:
            time.sleep(POLL_SECONDS)
    say("stopped")


def _daemon(folder: Path, port: int, config: Path | None) -> Any:
    from apex_exec.testing import Daemon

    class Debugged(Daemon):
        """The same daemon, with a zygote whose children take a debugger."""

        def command(self) -> list[str]:
            """As always, by way of ``debugged``."""
            words = super().command()
            return [*words[:2], "apex_exec.cli.plugin.debugged", str(port), str(folder.resolve()), *words[3:]]

    made = Debugged(config={**taken_over(config), **UNJAILED})
    made.put_plugin(folder)
    return made


def _say_how(bundle: Any, daemon: Any, port: int, ending: Ending) -> None:
    """Waits until the debugger listens, and prints how to attach and to call."""
    import json
    import shlex

    from apex_exec.catalogue.hooks import HOOKS
    from apex_exec.testing import USER

    due = time.monotonic() + WAIT_SECONDS_MAX
    while not _is_taken(port):
        if ending.asked:
            return
        if time.monotonic() > due or not daemon.is_running():
            fail(f"the debugger did not begin to listen: {daemon.log[-500:]}", EXIT_NO)
        time.sleep(POLL_SECONDS)
    say(f"attach a debugger to 127.0.0.1:{port} (in VS Code: Python Debugger: Remote Attach), then call from another "
        "shell:", flush=True)
    for hook in bundle.manifest.manifest.hooks:
        say("  " + shlex.join([
            *our_command(), "invoke", bundle.manifest.id, hook, "--user", USER, "--payload",
            json.dumps(HOOKS[hook].sample), "--deadline-ms", str(HOUR_MS), "--runtime-dir", str(daemon.runtime)]),
            flush=True)


def _is_taken(port: int) -> bool:
    """Whether somebody listens there. Nothing is sent: a debugger takes one client at a time."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
