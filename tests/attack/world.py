"""What stands outside the jail to be attacked: files, sockets, a stranger's process; and how it looks afterwards."""

from __future__ import annotations

import ctypes
import glob
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.support import other_user

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
VICTIM = """
import ctypes, os, sys, time
kept = ctypes.create_string_buffer(os.environ["SECRET"].encode())
print(ctypes.addressof(kept), flush=True)
while True:
    time.sleep(60)
"""
LOOK_SECONDS = 0.5
"""How long an effect may take to show where the attack claims success."""


class World:
    """One user's surroundings. ``uid`` is the daemon's: 0, or an unprivileged one that owns all of it."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.secret = "world-" + secrets.token_hex(8)
        self.root = Path(tempfile.mkdtemp(prefix="apw"))
        self.root.chmod(0o755)
        self.dir = self.root / "files"
        self.plugins = self.root / "plugins"
        self.plugins.mkdir()
        self.shm = libc.shmget(0, 4096, 0o1666)
        self.token = ""
        self.tcp, self.unix = socket.socket(), socket.socket(socket.AF_UNIX)
        self.abstract = socket.socket(socket.AF_UNIX)
        self.udp = socket.socket(type=socket.SOCK_DGRAM)
        self.unix_dgram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.tcp.bind(("127.0.0.1", 0))
        self.udp.bind(("127.0.0.1", 0))
        for one, name in ((self.unix, "docker.sock"), (self.unix_dgram, "dgram.sock")):
            one.bind(str(self.root / name))
            (self.root / name).chmod(0o777)
        self.abstract.bind("\0" + self.root.name)
        for one in (self.tcp, self.unix, self.abstract):
            one.listen(64)
        for one in (self.tcp, self.unix, self.abstract, self.udp, self.unix_dgram):
            one.setblocking(False)
        self.victim: subprocess.Popen[str] | None = None
        self.address = 0
        self.reset_files()

    def reset_files(self) -> None:
        """The files as they were."""
        libc.umount2(str(self.dir / "mnt").encode(), 2)
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir()
        (self.dir / "mnt").mkdir()
        (self.dir / "secret").write_text(self.secret)
        (self.dir / "target").write_text("untouched")
        (self.dir / "link").symlink_to(self.dir / "secret")
        for path in (self.dir, self.dir / "mnt", self.dir / "secret", self.dir / "target"):
            path.chmod(0o777)
            os.chown(path, self.uid, self.uid)

    def _ensure_victim(self) -> int:
        if self.victim is None or self.victim.poll() is not None:
            python, who, env = sys.executable, {}, {}
            if self.uid:
                python, who, env = other_user.python(), other_user.become(self.uid), other_user.environment()
            self.victim = subprocess.Popen([python, "-c", VICTIM], stdout=subprocess.PIPE, text=True,
                                           env={**env, "SECRET": self.secret}, start_new_session=True, **who)
            assert self.victim.stdout is not None
            self.address = int(self.victim.stdout.readline())
        return self.victim.pid

    def addresses(self, runtime: Path) -> dict[str, Any]:
        """What the attacking plugin is given: everything that a spy could find out. A new token each time."""
        self.token = secrets.token_hex(8)
        ctypes.memset(libc.shmat(self.shm, None, 0), 0, 64)
        victim = self._ensure_victim()
        return {"dir": str(self.dir), "secret_path": str(self.dir / "secret"), "target": str(self.dir / "target"),
                "inode": (self.dir / "secret").stat().st_ino, "tcp": self.tcp.getsockname()[1],
                "udp": self.udp.getsockname()[1], "unix": str(self.root / "docker.sock"),
                "unix_dgram": str(self.root / "dgram.sock"), "abstract": self.root.name, "victim": victim,
                "address": self.address, "length": len(self.secret), "shm": self.shm, "node": platform.node(),
                "token": self.token, "library": glob.glob("/lib/*-linux-gnu/libBrokenLocale.so.1")[0],
                "host_sock": f"{runtime}/host.sock", "admin_sock": f"{runtime}/admin.sock"}

    def snapshot(self) -> list[Any]:
        """The files with what an attack may change of them, and what is mounted there."""
        seen: list[Any] = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.dir) in line]
        for path in sorted(self.dir.iterdir()):
            info = path.lstat()
            seen.append((path.name, info.st_mode, info.st_size, info.st_mtime_ns, info.st_nlink, info.st_uid))
        return seen

    def came_through(self, proof: str, code: str, result: Any, before: list[Any]) -> bool:
        """What the outside saw. ``code``: the caller's, "ok" for a result."""
        due = time.monotonic() + (LOOK_SECONDS if code in ("ok", "WORKER_CRASHED") else 0.02)
        look = getattr(self, "_" + proof.replace("-", "_"))
        while not (seen := bool(look(code, result, before))) and time.monotonic() < due:
            if proof in ("true", "secret", "forty-two", "timeout", "process"):
                break  # nothing that comes later
            time.sleep(0.01)
        if seen and proof == "files":
            self.reset_files()
        return seen

    def _true(self, code: str, result: Any, _before: list[Any]) -> bool:
        return code == "ok" and result is True

    def _forty_two(self, code: str, result: Any, _before: list[Any]) -> bool:
        return code == "ok" and result == 42

    def _secret(self, code: str, result: Any, _before: list[Any]) -> bool:
        return code == "ok" and self.secret in str(result)

    def _timeout(self, code: str, _result: Any, _before: list[Any]) -> bool:
        return code == "TIMEOUT"

    def _files(self, _code: str, _result: Any, before: list[Any]) -> bool:
        return self.snapshot() != before

    def _shm(self, _code: str, _result: Any, _before: list[Any]) -> bool:
        return ctypes.string_at(libc.shmat(self.shm, None, 0), len(self.token)) == self.token.encode()

    def _victim(self, _code: str, _result: Any, _before: list[Any]) -> bool:
        return self.victim is not None and self.victim.poll() is not None

    def _process(self, code: str, result: Any, _before: list[Any]) -> bool:
        if code != "ok" or not isinstance(result, int) or not psutil.pid_exists(result):
            return False
        psutil.Process(result).kill()
        return True

    def _packet(self, _code: str, _result: Any, _before: list[Any]) -> bool:
        got = b""
        for listener in (self.tcp, self.unix, self.abstract):
            while True:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    break
                with connection:
                    connection.settimeout(0.5)
                    try:
                        got += connection.recv(100)
                    except OSError:
                        continue
        for box in (self.udp, self.unix_dgram):
            try:
                got += box.recv(100)
            except BlockingIOError:
                continue
        return self.token.encode() in got

    def close(self) -> None:
        """Takes it all away."""
        if self.victim is not None:
            self.victim.kill()
            self.victim.wait()
        self.reset_files()
        libc.shmctl(self.shm, 0, None)
        for one in (self.tcp, self.unix, self.abstract, self.udp, self.unix_dgram):
            one.close()
        shutil.rmtree(self.root, ignore_errors=True)
