"""The runtime folder: ours alone, locked by one daemon, swept of what a killed one left, and watched while we run."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from pathlib import Path

from apex_exec.common.own_folder import own_folder, take_lock
from apex_exec.config import SOCKET_PATH_BYTES_MAX, Settings
from apex_exec.errors import ConfigError

LOCK_NAME = "lock"


class RuntimeFolder:
    """Made 0700, ours, locked. ``host.socket_group`` and ``admin.socket_group`` open it to their group (0750), two
    different ones to everybody who knows what is in it (0711), since a folder has one group. Raises ConfigError."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.runtime_path
        self.host_group = group_id(settings.host.socket_group, "host.socket_group")
        self.admin_group = group_id(settings.admin.socket_group, "admin.socket_group")
        for endpoint in (settings.host_endpoint, settings.admin_endpoint):
            check_length(endpoint)
        self._make()
        self._lock = take_lock(self.path / LOCK_NAME, "runtime_dir")
        self._inode = self.path.stat().st_ino
        self._sockets: dict[Path, int] = {}

    def _make(self) -> None:
        path = self.path
        own_folder(path, "runtime_dir")
        groups = {group: key for group, key in ((self.host_group, "host.socket_group"),
                                                (self.admin_group, "admin.socket_group")) if group >= 0}
        try:
            if len(groups) == 1:
                (group,) = groups
                _give(path, group, groups[group])
            path.chmod((0o700, 0o750, 0o711)[len(groups)])
        except OSError as error:
            raise ConfigError(f"runtime_dir: {path}: {error.strerror} for uid {os.geteuid()}; "
                              "choose another folder") from None

    def sweep(self, endpoint: str) -> None:
        """Removes the socket file that a killed daemon left. Raises ConfigError if somebody serves it, or if
        something other than a socket is in the way. libzmq would unlink either without a word."""
        path = socket_path(endpoint)
        if path is None:
            return
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ConfigError(f"{path} is not a socket, and a socket has to be made there; move the file away, or "
                                  "choose another runtime_dir")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                refused = probe.connect_ex(os.fsencode(path)) == errno.ECONNREFUSED
            if not refused:
                raise ConfigError(f"another process listens on {path}; stop that process, or choose another endpoint")
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None

    def bound(self, endpoint: str, key: str) -> None:
        """Sets the mode of a socket that was just bound and remembers it for ``missing``; ``key`` is its endpoint's."""
        group = self.admin_group if key == "admin.endpoint" else self.host_group
        path = socket_path(endpoint)
        if path is None:
            return
        try:
            if group >= 0:
                _give(path, group, key.replace("endpoint", "socket_group"))
                path.chmod(0o660)
            else:
                path.chmod(0o600)
            self._sockets[path] = path.stat().st_ino
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None

    def missing(self) -> str:
        """What was deleted or replaced under us; "" if all is in place. Costs a few stats; call it now and then."""
        try:
            if self.path.stat().st_ino != self._inode:
                return f"the runtime folder {self.path} was replaced"
        except OSError:
            return f"the runtime folder {self.path} was deleted"
        for path, inode in self._sockets.items():
            try:
                if path.stat().st_ino != inode:
                    return f"the socket {path} was replaced"
            except OSError:
                return f"the socket {path} was deleted"
        return ""

    def restore(self) -> bool:
        """Makes a deleted folder anew and locks it; False if somebody else has taken its place."""
        try:
            if not self.path.exists():
                self._make()
            if self.path.stat().st_ino != self._inode or not (self.path / LOCK_NAME).exists():
                lock = take_lock(self.path / LOCK_NAME, "runtime_dir")
                os.close(self._lock)
                self._lock = lock
                self._inode = self.path.stat().st_ino
        except (ConfigError, OSError):
            return False
        return True

    def close(self) -> None:
        """Removes our sockets and lets the lock go."""
        for path, inode in self._sockets.items():
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()
        os.close(self._lock)


def socket_path(endpoint: str) -> Path | None:
    """The file of an ``ipc://`` endpoint; None for another transport."""
    return Path(endpoint.removeprefix("ipc://")) if endpoint.startswith("ipc://") else None


def check_length(endpoint: str) -> None:
    """Raises ConfigError if the endpoint's path does not fit a socket address; the kernel would only say EINVAL."""
    path = socket_path(endpoint)
    size = len(os.fsencode(path)) if path is not None else 0
    if size > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(f"{path} is {size} bytes long, and a socket path has at most {SOCKET_PATH_BYTES_MAX}; "
                          "choose a shorter runtime_dir")


def _give(path: Path, group: int, key: str) -> None:
    try:
        os.chown(path, -1, group)
    except PermissionError:
        raise ConfigError(f"{key}: uid {os.geteuid()} cannot give {path} to group {group}, which it is not in; make "
                          "the daemon's user a member of that group") from None


def group_id(name: str, key: str) -> int:
    """The number of group ``name``, which ``key`` names; -1 for none. Raises ConfigError."""
    if not name:
        return -1
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"{key}: this machine has no group {name!r}; write the name or the number of a group that "
                          "exists") from None
