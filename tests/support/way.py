"""A way to PostgreSQL that a test can cut, slow down and mend: a relay on a TCP port of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

CUT_LOOK_SECONDS = 0.05


class Way:
    """Relays to the server whose socket is in ``folder``. ``cut`` is silent: bytes are taken and go nowhere."""

    def __init__(self, folder: Path) -> None:
        self._server = str(folder / ".s.PGSQL.5432")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = threading.Event()
        self._open.set()
        self._ended = False
        self._all: list[socket.socket] = []
        self.delay_seconds = 0.0
        """How much later each piece of a client's arrives."""
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str) -> str:
        """``database`` by this way, as SQLAlchemy takes it."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self._listener.getsockname()[1]}/{database}"

    def cut(self) -> None:
        """Nothing passes from now on, in no direction; connections stay as they are."""
        self._open.clear()

    def lead_to(self, folder: Path) -> None:
        """New connections reach the server whose socket is in ``folder``; those that there are end."""
        self._server = str(folder / ".s.PGSQL.5432")
        self.mend()

    def mend(self) -> None:
        """The way is open again; what was under way is lost, and so are the connections that it belonged to."""
        for one in self._all:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.set()

    def close(self) -> None:
        """Ends the relay."""
        self._ended = True
        self._listener.close()
        self.mend()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._all.append(client)
        if not self._open.is_set():
            self._open.wait()  # it connects, and hears nothing
            client.close()
            return
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._server)
        except OSError:
            client.close()
            return
        self._all.append(server)
        threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()
        self._pass(client, server, True)

    def _pass(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        try:
            while data := source.recv(65_536):
                if slow and self.delay_seconds:
                    time.sleep(self.delay_seconds)
                self._open.wait()
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
