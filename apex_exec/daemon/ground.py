"""What the daemon stands on: its settings as they were checked, its folders, locks and sockets, and the zygote.

The order matters: folders and locks come first, then the zygote, before any thread or ZeroMQ context exists. This
module imports little, so that the zygote starts early: it loads its modules on one core while the rest of the daemon's
code (``build.py``) is imported on another. What would outlive a daemon that cannot be built is put on a stack
beside its making.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
from contextlib import ExitStack
from typing import NamedTuple

from apex_exec.catalogue.declared import declare_all
from apex_exec.common.own_folder import own_folder, take_lock
from apex_exec.config import Settings
from apex_exec.daemon.folder_plugins import Scan, scan_folder
from apex_exec.daemon.notify import Notifier
from apex_exec.daemon.reload import InForce
from apex_exec.daemon.runtime_folder import RuntimeFolder
from apex_exec.daemon.settings_checks import check_settings
from apex_exec.errors import ConfigError
from apex_exec.executor.jails import Sandboxing
from apex_exec.executor.processes.zygote_link import ZygoteLink
from apex_exec.observe.logs import Logs
from apex_exec.registry.bundles.blobs import BlobStore, BundleSource
from apex_exec.registry.bundles.bounds import Bounds

PR_SET_CHILD_SUBREAPER = 36


class Ground(NamedTuple):
    """What belongs to this daemon alone."""

    settings: Settings
    in_force: InForce
    logs: Logs
    notifier: Notifier
    sandboxing: Sandboxing
    source: BundleSource
    found: Scan
    runtime: RuntimeFolder
    state_lock: int
    listener: socket.socket
    fds: int
    zygote: ZygoteLink


def prepare(settings: Settings, logs: Logs, undo: ExitStack) -> Ground:
    """Looks at all that could be refused, takes the folders and the locks, and starts the zygote before any thread.

    Raises ConfigError."""
    check_settings(settings)
    declare_all(settings.declared_hooks())
    Bounds.use(settings)
    in_force = InForce(settings)
    notifier = Notifier()
    sandboxing = Sandboxing(settings)
    _own_state(settings)
    source = BundleSource(BlobStore(settings.state_path / "bundles"))
    found = scan_folder(settings.plugins_dir, settings.limits.policy(), settings.security.policy_file)
    source.replace(found.bundles)
    runtime = RuntimeFolder(settings)
    undo.callback(runtime.close)
    state_lock = take_lock(settings.state_path / "state.lock", "state_dir")  # ledger, registry: one writer
    undo.callback(os.close, state_lock)
    for endpoint in (settings.host_endpoint, settings.admin_endpoint):
        runtime.sweep(endpoint)
    listener = _listen(settings.http.address)
    undo.callback(listener.close)
    _, fds = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fds, fds))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a dead zygote's workers come to us to be reaped
    zygote = ZygoteLink(sandboxing.boot)  # it ends with this process if the daemon cannot be built further
    logs.start()
    return Ground(settings, in_force, logs, notifier, sandboxing, source, found, runtime, state_lock, listener, fds,
                  zygote)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(64)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"http.address: cannot listen on {address}: {error}; choose another address, or port 0 for "
                          "any free port") from None
    return listener


def _own_state(settings: Settings) -> None:
    path = settings.state_path
    own_folder(path, "state_dir")
    try:
        (path / "bundles").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir: {path / 'bundles'}: {error.strerror} for uid {os.geteuid()}; "
                          "choose another folder") from None
