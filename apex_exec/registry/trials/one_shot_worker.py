"""One jailed worker without a daemon: what ``plugin validate`` loads a bundle in. Blocks; nothing of it is left after.

It is the same probe as the daemon's, in the same jail: plugin code never runs in the process that asks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apex_exec.config import Settings
from apex_exec.core.limits import SECOND_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import ConfigError, Refusal
from apex_exec.executor.blocking import BlockingExecutor
from apex_exec.executor.jails import Sandboxing, extra_modules_hint
from apex_exec.executor.links.jobs import Probe
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.executor.links.worker_protocol import DECLARES_TOO_MUCH
from apex_exec.executor.outcome import at_place
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.bundles.manifest import parse_manifest
from workers import wire

IMPORT_SECONDS_MAX = 60.0
"""How long the trial of a package may take: on an author's machine, beside whatever else runs there."""
LOOK = "look what it does when it is imported"


def declared_by(bundle: Bundle, settings: Settings) -> dict[str, Any]:
    """Returns what the bundle's code declares, ``{hooks, permissions, version}``. Raises Refusal("load_failed").

    Only for a process without threads or a ZeroMQ context: it forks.
    """
    with jailed(settings) as executor:
        return declared_in(executor, bundle, settings)


@contextmanager
def jailed(settings: Settings) -> Iterator[BlockingExecutor]:
    """An executor with the daemon's jail, for one load after the other. Raises Refusal("no_jail")."""
    logging.getLogger("apex_exec").setLevel(logging.ERROR)
    try:
        sandboxing = Sandboxing(settings)
    except ConfigError as error:
        raise Refusal("no_jail", str(error), hint="see `apex-exec doctor`") from None
    try:
        executor = BlockingExecutor(sandboxing.boot, sandboxing)
    except OSError as error:
        raise Refusal("no_jail", f"no worker can be started: {error}{extra_modules_hint(settings)}",
                      hint="see `apex-exec doctor`") from None
    try:
        yield executor
    finally:
        executor.close()
        if sandboxing.cgroups is not None:
            sandboxing.cgroups.close()


def declared_in(executor: BlockingExecutor, bundle: Bundle, settings: Settings, seconds: float = 0.0) -> dict[str, Any]:
    """What the bundle's code declares, loaded by ``executor`` in at most ``seconds`` (0: as long as a worker may take).
    Raises Refusal."""
    spec = bundle.spec(settings.limits.policy())
    if why := executor.lacking.get(spec.runtime):
        raise Refusal("load_failed", f"plugins in {spec.runtime} are not available on this machine: {why}",
                      hint="see `apex-exec doctor`")
    probe = _Probe(spec, bundle, seconds or settings.pool.boot_seconds)
    executor.run(probe)
    if probe.refusal is not None:
        raise probe.refusal
    return probe.declared


_IMPORTS = '''import importlib
from workers import Plugin

for name in {modules!r}:
    importlib.import_module(name)
plugin = Plugin(id="vendor-trial", version="1.0.0", permissions=[])


@plugin.hook("onActionExecute")
def act(context, params):
    return None
'''
_MANIFEST = (b'{"id": "vendor-trial", "name": "Trial", "version": "1.0.0", "author": "apex-exec", "permissions": [], '
             b'"manifest": {"entrypoint": "plugin.py", "hooks": ["onActionExecute"]}}')


def import_failure(executor: BlockingExecutor, settings: Settings, modules: list[str], vendor: dict[str, bytes]) -> str:
    """Imports ``modules`` of the files for ``vendor/`` in a jailed worker. Returns "", or why that failed."""
    files = {"plugin.py": _IMPORTS.format(modules=modules).encode(), "manifest.json": _MANIFEST,
             **{f"vendor/{path}": body for path, body in vendor.items()}}
    try:
        declared_in(executor, Bundle(parse_manifest(_MANIFEST), files), settings, IMPORT_SECONDS_MAX)
    except Refusal as error:
        return error.message
    return ""


class _Probe(Probe):
    """``declared`` is what the code declares; if it could not be loaded, ``refusal`` tells the author why."""

    def __init__(self, spec: PluginSpec, bundle: Bundle, seconds: float) -> None:
        self._bundle = bundle
        super().__init__(spec, bundle.loaded, time.monotonic_ns() + int(seconds * SECOND_NS), self._ended)
        self.declared: dict[str, Any] = {}
        self.refusal: Refusal | None = None

    def failed(self, link: WorkerLink, message: wire.Failed, now_ns: int) -> None:
        """Refuses the bundle with the exception and its place in the source that the author wrote."""
        told = at_place(f"{message.exception}: {message.message}", message.traceback)
        self._refuse(self._bundle.in_source(told),
                     "mend what its import does; a worker has no files, no network and few modules")

    def violated(self, link: WorkerLink, why: str, now_ns: int) -> None:
        """The worker is killed."""
        super().violated(link, why, now_ns)
        if why == DECLARES_TOO_MUCH:
            self._refuse(why, "declare the hooks and permissions of the manifest only")
        else:
            self._refuse(f"the worker was lost: {why}"[:300], "see `apex-exec doctor`")

    def overdue(self, link: WorkerLink) -> None:
        """The worker is killed."""
        super().overdue(link)
        self._refuse("the bundle was not loaded in time", LOOK)

    def _refuse(self, message: str, hint: str) -> None:
        self.refusal = self.refusal or Refusal("load_failed", message, hint=hint)

    def _ended(self, value: dict[str, Any] | None, code: str, message: str) -> None:
        if value is not None:
            self.declared = {name: value[name] for name in ("hooks", "permissions", "version")}
        elif code == "OVERLOADED":
            self._refuse(f"the worker was lost: {message}", "see `apex-exec doctor`")
        else:
            self._refuse("the worker ended before the bundle was loaded", LOOK)
