"""A throwaway PostgreSQL server: a data folder of its own, a unix socket, no TCP, no fsync."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

OWNER = "postgres"
"""PostgreSQL refuses to run as root; if root starts it, it runs as this user, who owns its data folder too."""


def find_binary(name: str) -> Path | None:
    """The newest ``name`` of Debian's folders, else the one on PATH, else None."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
                   key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))])
    on_path = shutil.which(name)
    return found[-1] if found else Path(on_path) if on_path else None


def missing() -> str:
    """Why a server cannot be started here; empty if it can."""
    if not find_binary("initdb") or not find_binary("pg_ctl"):
        return "PostgreSQL's initdb and pg_ctl are not installed"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(OWNER)
        except KeyError:
            return f"root cannot run PostgreSQL, and there is no user {OWNER} to run it as"
    else:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            return f"PostgreSQL runs as no user without an account, and uid {os.geteuid()} has none"
    return ""


class Postgres:
    """One running server in ``folder``, whose path must be short. ``stop`` it. Raises RuntimeError if it cannot start.

    Everybody on this machine may connect as its superuser, so it may hold only what tests put into it.
    """

    def __init__(self, folder: Path, *, durable: bool = False, standby_of: Postgres | None = None) -> None:
        """``durable``: what is committed survives ``kill``, as on a server that is meant to keep anything. With
        ``standby_of`` it follows that server, and only answers queries until ``promote``."""
        self._durable = durable
        self.folder = folder
        """Where the socket is."""
        self._data = folder / "data"
        self._initdb, self._control = find_binary("initdb"), find_binary("pg_ctl")
        if why := missing():
            raise RuntimeError(why)
        if os.geteuid() == 0:
            shutil.chown(folder, OWNER)
        folder.chmod(0o755)
        if standby_of is None:
            self._run(self._initdb, "-D", self._data, "-U", OWNER, "--auth=trust", "--no-sync", "-E", "UTF8",
                      "--locale=C.UTF-8")
        else:
            self._run(find_binary("pg_basebackup"), "-h", standby_of.folder, "-U", OWNER, "-D", self._data, "-R",
                      "-X", "stream", "-c", "fast", "--no-sync")
        self.start()

    def start(self) -> None:
        """Starts the server, again if it was stopped or killed. Raises RuntimeError."""
        options = " ".join(f"-c {option}" for option in (
            "listen_addresses=''", f"unix_socket_directories={self.folder}", *(
                ("fsync=on",) if self._durable else ("fsync=off", "synchronous_commit=off", "full_page_writes=off")),
            "max_connections=90", "shared_buffers=32MB"))
        self._run(self._control, "-D", self._data, "-l", self.folder / "log", "-o", options, "-w", "-t", 60, "start")

    def promote(self) -> None:
        """A standby becomes a server of its own. Raises RuntimeError."""
        self._run(self._control, "-D", self._data, "-w", "-t", 60, "promote")

    def signal(self, number: int) -> None:
        """Sends a signal to the server's first process, and with SIGSTOP and SIGCONT to all others of the server too.
        Raises OSError."""
        first = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        others = first.children(recursive=True) if number in (signal.SIGSTOP, signal.SIGCONT) else []
        for process in (first, *others):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the server; ``start`` starts it again. Blocks until all its processes have ended."""
        first = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        all_of_it = [first, *first.children(recursive=True)]
        first.kill()
        psutil.wait_procs(all_of_it, timeout=30)

    def _run(self, *command: object) -> None:
        as_owner = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups"] if os.geteuid() == 0 else []
        done = subprocess.run([*as_owner, *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, cwd="/", timeout=90, text=True, errors="replace")
        log = self.folder / "log"
        if done.returncode:
            raise RuntimeError(done.stdout + (log.read_text() if log.exists() else ""))

    def url(self, name: str = "test", user: str = OWNER) -> str:
        """Drops and makes the database ``name``; its URL, as SQLAlchemy and the gateway take it, for ``user``."""
        if not re.fullmatch(r"[a-z0-9_]{1,60}", name):
            raise ValueError(f"{name!r}: the name of a database here has a-z, 0-9 and _, 60 at most")
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://{user}@/{name}?host={self.folder}"

    def execute(self, *statements: str, database: str = OWNER) -> None:
        """Runs ``statements`` as the superuser, each on its own."""
        import psycopg

        with psycopg.connect(f"host={self.folder} dbname={database} user={OWNER}", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def stop(self) -> None:
        """Ends the server and everything connected to it."""
        self._run(self._control, "-D", self._data, "-m", "immediate", "-w", "-t", 30, "stop")
