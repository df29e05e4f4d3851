"""``plugin dev``: starts a daemon that serves one folder and reloads it after every save that loads."""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.cli.output import say
from apex_exec.cli.own_daemon import ended_in_order, taken_over
from apex_exec.cli.plugin.common import settings_with_hooks
from apex_exec.cli.root import EXIT_NO, ConfigFile, examples, fail, need_linux, our_command, plugin_app
from apex_exec.cli.verbs import Argument, Option
from apex_exec.common.short_folder import short_base

if TYPE_CHECKING:
    from apex_exec.cli.plugin.preview import Preview
    from apex_exec.config import Settings
    from apex_exec.readiness import Readiness
    from apex_exec.registry.bundles.bundle import Bundle
    from apex_exec.testing import Daemon

POLL_SECONDS = 0.3
START_SECONDS_MAX = 30.0
LINE_BYTES_MAX = 1024 * 1024
USER = "11111111-2222-4333-8444-555555555555"
LINES_PER_SECOND = 1000
"""The limit on what the plugin prints is high, because its author wants to see everything."""


@plugin_app.command(epilog=examples("apex-exec plugin dev ./my-plugin", "apex-exec plugin dev . --port 8000"))
def dev(
    folder: Annotated[Path, Argument(metavar="DIR", help="The bundle's folder.")],
    runtime: Annotated[str | None, Option(
        "--runtime-dir", metavar="DIR", help="Folder for the daemon's sockets; default: a new one.")] = None,
    port: Annotated[int, Option("--port", min=0, max=65_535, help="The preview's port; 0 takes a free one.")] = 0,
    config: ConfigFile = None,
) -> None:
    """Serves a folder with the real limits and jail, and reloads it on every save. Ctrl-C ends it.

    If a save is not a valid bundle or cannot be loaded, the reason is printed and the last good save stays in service.
    Shown are every call with its outcome and what it asked of the platform, everything that the plugin prints, and
    every failure of a hook, with its traceback. The address that is printed leads to a page on this machine with the
    widgets and the result of the latest save, as JSON.
    """
    need_linux()
    from apex_exec.cli.plugin.calls_shown import CallsShown
    from apex_exec.registry.bundles.bundle import read_folder
    from apex_exec.testing import DaemonFailed

    settings = settings_with_hooks(config)
    id_ = read_folder(folder).manifest.id
    short = tempfile.TemporaryDirectory(prefix="apxdev", dir=short_base())
    with ended_in_order(interrupts=False) as ending, short as place:
        watch = _Watch(folder, Path(place) / "plugins" / id_, settings)
        while not watch.look() and not ending.asked:
            time.sleep(POLL_SECONDS)
        if ending.asked:
            say("stopped")
            return
        with _served(Path(place), runtime, config, watch) as (daemon, readiness, log):
            due = time.monotonic() + START_SECONDS_MAX
            while not readiness.is_ready(0.0) and not ending.asked:
                log.show(0.05)
                try:
                    daemon.check_starting(due)
                except DaemonFailed:
                    log.show(0.0)
                    fail("the daemon did not start; the lines above are its own messages", EXIT_NO)
            _tell_calls(watch.bundle, str(daemon.runtime))
            with _preview(watch.bundle, daemon.endpoint, port) as preview, CallsShown(daemon.admin_endpoint, id_):
                while daemon.is_running() and not ending.asked:
                    log.show(POLL_SECONDS)
                    if watch.look():
                        _beside(_reload, daemon.admin_endpoint, preview, watch.bundle)
        if ending.asked:
            say("stopped")
    if status := daemon.stop():
        fail(f"the daemon ended with status {status}", EXIT_NO)


@contextmanager
def _served(place: Path, runtime: str | None, config: Path | None,
            watch: _Watch) -> Iterator[tuple[Daemon, Readiness, _Log]]:
    """Yields the daemon, its readiness and its log. The daemon is stopped when the body ends."""
    from apex_exec.testing import Daemon

    settings = {"log.format": "json", "log.plugin_lines_per_second": LINES_PER_SECOND,
                **({"runtime_dir": runtime} if runtime else {})}
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb"):
        try:
            daemon = Daemon(place, config={**taken_over(config), **settings}, output=writes)
            readiness = daemon.launch()
        finally:
            os.close(writes)  # the daemon has its own copy, so our reading ends when the daemon does
        log = _Log(reads, watch)
        try:
            with readiness:
                yield daemon, readiness, log
        finally:
            daemon.signal(signal.SIGTERM)
            while log.show(POLL_SECONDS):
                pass  # if nobody read its last messages, the daemon would block on writing them
            daemon.stop()


@contextmanager
def _preview(bundle: Bundle, endpoint: str, port: int) -> Iterator[Preview]:
    """Yields the page, which is there until the body ends. Ends the command if its port is taken."""
    from apex_exec.cli.plugin.preview import Preview

    try:
        preview = Preview(endpoint, bundle.manifest.id, _samples(bundle), USER, port)
    except OSError as error:
        fail(f"the preview cannot listen on 127.0.0.1:{port}: {error.strerror}; name another --port", EXIT_NO)
    try:
        say(f"preview: {preview.address}", flush=True)
        _beside(_render, preview, bundle)
        yield preview
    finally:
        preview.close()


def _samples(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """A payload for each hook that the bundle declares."""
    from apex_exec.registry.bundles.checks import canary_call

    return {hook: canary_call(bundle.manifest, hook, None, USER)["payload"] for hook in bundle.manifest.manifest.hooks}


def _beside(act: Callable[..., None], *given: object) -> None:
    """Runs ``act`` in a thread: what reads the daemon's log may not wait for the daemon."""
    threading.Thread(target=act, args=given, daemon=True).start()


def _reload(endpoint: str, preview: Preview, bundle: Bundle) -> None:
    """Has the daemon serve a new save, and shows it."""
    from apex_exec.client import AdminClient, CallError, ConnectionLost

    try:
        with AdminClient(endpoint) as admin:
            admin.request("daemon.reload")
    except (CallError, ConnectionLost) as error:
        say(f"not reloaded: {error}", flush=True)
        return
    say(f"reloaded {bundle.manifest.id} {bundle.manifest.version}, digest {bundle.digest[:12]}", flush=True)
    preview.serve(_samples(bundle))
    _render(preview, bundle)


def _render(preview: Preview, bundle: Bundle) -> None:
    """Calls the hooks that show something, since their widgets are what the page is for. Other hooks may write."""
    from apex_exec.catalogue.hooks import RENDERING

    for hook in bundle.manifest.manifest.hooks:
        if hook in RENDERING:
            preview.call(hook)


def _tell_calls(bundle: Bundle, sockets: str) -> None:
    """Prints one command for each hook, ready to be copied into another shell."""
    import shlex

    from apex_exec.registry.bundles.checks import canary_call

    say(f"serving {bundle.manifest.id} {bundle.manifest.version}; call it from another shell with:", flush=True)
    for hook in bundle.manifest.manifest.hooks:
        payload = json.dumps(canary_call(bundle.manifest, hook, None, USER)["payload"])
        say("  " + shlex.join([*our_command(), "invoke", bundle.manifest.id, hook, "--user", USER, "--payload", payload,
                               "--runtime-dir", sockets]), flush=True)


class _Log:
    """The daemon's log as JSON lines: shows the plugin's lines, and the daemon's warnings and errors. Places are those
    of the author's source."""

    def __init__(self, fd: int, watch: _Watch) -> None:
        self._fd = fd
        self._watch = watch
        self._begun = b""

    def show(self, seconds: float) -> bool:
        """Shows what arrives within ``seconds``; returns False once the log has ended."""
        due = time.monotonic() + seconds
        while select.select([self._fd], [], [], max(0.0, due - time.monotonic()))[0]:
            data = os.read(self._fd, 65_536)
            if not data:
                return False
            *lines, self._begun = (self._begun + data).split(b"\n")
            self._begun = self._begun[-LINE_BYTES_MAX:]
            for line in lines:
                self._say(line)
        return True

    def _say(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            plugin, level, text = entry.get("plugin", ""), entry["level"], str(entry["message"])
        except (ValueError, KeyError, TypeError, AttributeError):  # written by a process other than the daemon
            say(line.decode("utf-8", "replace"), flush=True)
            return
        if plugin:
            say(f"[{plugin}] {self._watch.bundle.in_source(text)}", flush=True)
        elif level != "info":
            say(f"[daemon] {level}: {text}", flush=True)


class _Watch:
    """The author's folder, and the copy of its last good state that is served. ``bundle`` is what the copy holds."""

    bundle: Bundle

    def __init__(self, folder: Path, served: Path, settings: Settings) -> None:
        self.served = served
        self._folder = folder
        self._settings = settings
        self._looked_at = ""
        self._said = ""

    def look(self) -> bool:
        """True if a new save was taken over. The reason why one was not is printed once."""
        from apex_exec.errors import Refusal
        from apex_exec.registry.bundles.bundle import read_folder
        from apex_exec.registry.scan.scanner import scan
        from apex_exec.testing import replace_bundle

        try:
            bundle = read_folder(self._folder)
            if bundle.digest == self._looked_at:
                return False
            self._looked_at = bundle.digest
            self._check(bundle)
        except Refusal as error:
            if (told := f"{error.message} ({error.hint})" if error.hint else error.message) != self._said:
                then = "the last good save is still served" if self.served.exists() else "waiting for a save that loads"
                say(f"not reloaded: {told}; {then}", flush=True)
                self._said = told
            return False
        for item in scan(bundle.files, bundle.manifest, with_bandit=False).errors:
            say(f"an installation would refuse {item.path}:{item.line}: {item.message} [{item.rule}]")
        self._said = ""
        self.bundle = bundle
        replace_bundle(self.served, bundle.files, self.served.parent.parent)
        return True

    def _check(self, bundle: Bundle) -> None:
        """Loads the save in a jailed worker beside the daemon's. Raises Refusal if it could not be served."""
        from apex_exec.errors import Refusal
        from apex_exec.registry.bundles.checks import declared_problems
        from apex_exec.registry.trials.one_shot_worker import declared_by

        if bundle.manifest.id != self.served.name:
            raise Refusal("id_changed",
                          f"the manifest's id is now {bundle.manifest.id}, but {self.served.name} is being served",
                          hint="stop this with Ctrl-C and start it again")
        if problems := declared_problems(bundle.manifest, declared_by(bundle, self._settings)):
            raise Refusal("declaration_differs", "; ".join(problem["message"] for problem in problems),
                          hint=problems[0]["hint"])
