"""A folder that is this user's alone, and the lock that says which process works in it."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from apex_exec.errors import ConfigError


def own_folder(path: Path, key: str, who: str = "the daemon") -> None:
    """Makes ``path``, 0700, if it is not there; it must be this user's. Raises ConfigError with what to do. ``key`` is
    the configuration's name for it, ``who`` runs here.

    A volume that is mounted for a container belongs to root and is open to others (0777, or 2775 for a group),
    no matter who the daemon is: others could replace its sockets and its ledger there. A folder inside it is the
    daemon's own.
    """
    uid = os.geteuid()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
        raise ConfigError(f"{key}: {path}{where}: {error.strerror} for uid {uid}; "
                          "choose a folder that this user can make and write") from None
    if not stat.S_ISDIR(info.st_mode):
        raise ConfigError(f"{key}: {path} exists and is not a folder; remove it, or choose another folder")
    if info.st_uid != uid:
        remedy = (f'name a folder inside it, which {who} makes for itself: {key} = "{path / "apex-exec"}"'
                  if os.access(path, os.W_OK | os.X_OK, effective_ids=True) else
                  f"make it that user's (chown {uid} {path}), or choose another")
        raise ConfigError(f"{key}: {path} belongs to uid {info.st_uid}, and {who} runs as uid {uid}; {remedy}")
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise ConfigError(f"{key}: {path} cannot be written by uid {uid} (a read-only file system, or its mode "
                          f"{stat.S_IMODE(info.st_mode):04o}); make it writable, or choose another folder")


def take_lock(path: Path, key: str, who: str = "a daemon") -> int:
    """The descriptor of the lock ``path``, held until it is closed. Raises ConfigError if another process has it."""
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"{key}: the lock file {path} cannot be opened by uid {os.geteuid()}: {error.strerror}; "
                          "remove it, or choose another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        which = f" (pid {pid})" if pid.isdigit() else ""
        message = f"{who} is already running on {path.parent}{which}; stop it or choose another {key}"
        raise ConfigError(message) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
