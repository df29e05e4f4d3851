"""A real pgbouncer in transaction mode before a test's PostgreSQL server, with fewer connections than clients."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support import need
from tests.support.postgres import OWNER, Postgres

START_SECONDS_MAX = 10.0
PASSWORD = "only for tests"  # noqa: S105 - of a server that lives for seconds, on a socket of its own


class PgBouncer:
    """Serves ``database`` of ``server`` on a unix socket of its own, by two connections of ``user``, until the block
    ends.

    Every client is let in as ``user``. With ``project``, as providers do it (Supabase): a client logs in with a
    password (SCRAM) as ``user.project``, a name that the server itself does not know.
    """

    def __init__(self, server: Postgres, database: str, user: str, project: str = "") -> None:
        need(shutil.which("pgbouncer"), "pgbouncer is not installed")
        self._database = database
        self._folder = Path(tempfile.mkdtemp(prefix="apxpb"))
        self._login = f"{user}.{project}:{PASSWORD.replace(' ', '%20')}" if project else user
        (self._folder / "users").write_text(f'"{user}.{project}" "{PASSWORD}"\n')
        auth = f"auth_type = scram-sha-256\nauth_file = {self._folder}/users" if project else "auth_type = any"
        (self._folder / "pgbouncer.ini").write_text(
            f"[databases]\n{database} = host={server.folder} dbname={database} user={user}\n[pgbouncer]\n"
            f"listen_port = 6432\nlisten_addr =\nunix_socket_dir = {self._folder}\n{auth}\n"
            f"pool_mode = transaction\ndefault_pool_size = 2\nlogfile = {self._folder}/log\n")
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, scheme: str = "postgresql+psycopg") -> str:
        """The database's URL through the pooler."""
        return f"{scheme}://{self._login}@/{self._database}?host={self._folder}&port=6432"

    def __enter__(self) -> PgBouncer:
        path = self._folder / "pgbouncer.ini"
        become: list[str] = []
        if os.geteuid() == 0:
            for one in (self._folder, path, self._folder / "users"):
                shutil.chown(one, OWNER)
            become = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups"]
        self._process = subprocess.Popen([*become, shutil.which("pgbouncer") or "pgbouncer", str(path)],
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        due = time.monotonic() + START_SECONDS_MAX
        while not (self._folder / ".s.PGSQL.6432").exists():
            assert self._process.poll() is None and time.monotonic() < due, (self._folder / "log").read_text()
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)
