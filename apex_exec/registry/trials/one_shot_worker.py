"""One jailed worker without a daemon: what ``plugin validate`` loads a bundle in. Blocks; nothing of it is left after.

The same zygote, the same jail and the same loader as the daemon's, for one probe: plugin code never runs in the process
that asks.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from typing import Any

import msgspec

from apex_exec.config import Settings
from apex_exec.core.plugin import Limits
from apex_exec.errors import ConfigError, Refusal
from apex_exec.executor.jails import Sandboxing, extra_modules_hint
from apex_exec.executor.outcome import at_place
from apex_exec.executor.worker_link import WorkerLink
from apex_exec.executor.worker_protocol import declares_too_much
from apex_exec.executor.zygote_link import ZygoteLink
from apex_exec.registry.bundles.bundle import Bundle
from workers import wire
from workers.zmtp import ZmtpError

START_SECONDS_MAX = 30.0
END_SECONDS_MAX = 2.0
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(wire.FromWorker).decode


def declared_by(bundle: Bundle, settings: Settings) -> dict[str, Any]:
    """What the bundle's code declares, ``{hooks, permissions, version}``. Raises Refusal("load_failed").

    Only for a process without threads or a ZeroMQ context: it forks.
    """
    logging.getLogger("apex_exec").setLevel(logging.ERROR)
    try:
        sandboxing = Sandboxing(settings)
    except ConfigError as error:
        raise Refusal("no_jail", str(error), hint="see `apex-exec doctor`") from None
    limits = settings.limits
    spec = bundle.spec(Limits(limits.timeout_ms, limits.memory_mb, limits.cpu_percent, limits.network_per_minute))
    zygote = ZygoteLink(sandboxing.boot)
    link = WorkerLink(1, spec, time.monotonic_ns())
    try:
        due = time.monotonic() + START_SECONDS_MAX
        _wait(zygote.fileno(), due)
        try:
            zygote.receive()
        except (EOFError, OSError):
            why = zygote.why() + extra_modules_hint(settings)
            raise Refusal("no_jail", f"no worker can be started: {why}", hint="see `apex-exec doctor`") from None
        zygote.fork(1, sandboxing.jail_for(1, spec), link.theirs.fileno(), link.marks_write)
        link.handed_over()
        return _converse(link, bundle, spec.limits.memory_mb, time.monotonic() + settings.pool.boot_seconds)
    except (EOFError, OSError, ZmtpError, msgspec.DecodeError) as error:
        raise Refusal("load_failed", f"the worker was lost: {error}"[:300], hint="see `apex-exec doctor`") from None
    finally:
        link.close()
        _end(zygote)


def _end(zygote: ZygoteLink) -> None:
    """Lets the worker die first: a zygote whose link ends with its words unread has a reset connection."""
    due = time.monotonic() + END_SECONDS_MAX
    with contextlib.suppress(EOFError, OSError, Refusal):
        while True:
            _wait(zygote.fileno(), due)
            if any(isinstance(message, wire.Exited) for message, _ in zygote.receive()):
                break
    with contextlib.suppress(OSError):
        zygote.close()


def _wait(fd: int, due: float, *, writes: bool = False) -> None:
    """Waits until ``fd`` can be read or, if ``writes``, be written to."""
    ready = select.select([fd], [fd] if writes else [], [], max(0.0, due - time.monotonic()))
    if not (ready[0] or ready[1]):
        raise Refusal("load_failed", "the bundle was not loaded in time", hint="look what it does when it is imported")


def _converse(link: WorkerLink, bundle: Bundle, memory_mb: int, due: float) -> dict[str, Any]:
    while True:
        link.flush()
        _wait(link.fileno(), due, writes=link.wants_write)  # a bundle may be larger than the socket's buffer
        bodies, ended = link.receive()
        for body in bodies:
            message: Any = _decode(body)
            if isinstance(message, wire.Booted):
                link.queue(_encode(wire.Load(
                    bundle.manifest.id, bundle.manifest.version, bundle.entrypoint, bundle.loaded, bundle.sha256,
                    memory_mb * 1024 * 1024, "probe")))
            elif isinstance(message, wire.Ready):
                if declares_too_much(message):
                    raise Refusal("load_failed", "it declares more than any plugin has",
                                  hint="declare the hooks and permissions of the manifest only")
                return {"hooks": message.hooks, "permissions": message.permissions, "version": message.version}
            elif isinstance(message, wire.Failed):
                raise Refusal("load_failed", at_place(f"{message.exception}: {message.message}", message.traceback),
                              hint="mend what its import does; a worker has no files, no network and few modules")
        if ended:
            raise Refusal("load_failed", "the worker ended before the bundle was loaded",
                          hint="look what it does when it is imported")
