"""The socket by which the command line has a running console make links, list sessions and end them.

Only root and the user whose console it is may connect: the kernel says who does. One line of JSON each way.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apex_exec.config import ROLES, SOCKET_PATH_BYTES_MAX
from apex_exec.console.sessions import Links, Person, Sessions
from apex_exec.errors import Code, ConfigError, Refusal

NAME = "console.sock"
LINE_BYTES_MAX = 65_536
ANSWER_BYTES_MAX = 1024 * 1024
"""The longest answer is the list of all sessions."""
SECONDS = 5.0
"""How long either side waits for the other: both are on this machine."""
PERSON_CHARS_MAX = 200
"""The daemon takes no longer name of an actor."""


class Control:
    """The console's side. ``link(secret)`` makes the address that a person opens."""

    def __init__(self, links: Links, sessions: Sessions, link: Callable[[str], str],
                 clock: Callable[[], float]) -> None:
        self._links = links
        self._sessions = sessions
        self._link = link
        self._clock = clock

    async def listen(self, folder: Path) -> asyncio.AbstractServer:
        """Listens in ``folder``, which is ours and locked, in place of a socket that a killed console left. Raises
        ConfigError."""
        path = folder / NAME
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            raise ConfigError(f"console.runtime_dir: {path} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a "
                              "socket's path may have; choose a shorter folder")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        server = await asyncio.start_unix_server(self._serve, path, limit=LINE_BYTES_MAX)
        path.chmod(0o600)
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            given = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            uid = struct.unpack("3i", given)[1]
            if uid in (0, os.geteuid()):
                line = await asyncio.wait_for(reader.readline(), SECONDS)
                writer.write(json.dumps(self._answer(line)).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), SECONDS)
        except (OSError, ValueError, TimeoutError):
            pass  # the peer has gone, or sends something else than a line: the loss is its own
        finally:
            writer.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            do, now = asked["do"], self._clock()
            if do == "link":
                person = person_of(asked["name"], asked["roles"])
                return {"link": self._link(self._links.make(person, now))}
            if do == "sessions":
                return {"sessions": self._sessions.listing(now)}
            name = str(asked["name"])
            return {"links": self._links.end(name), "sessions": self._sessions.end_of(name)}
        except ConfigError as error:
            return {"refused": str(error)}
        except (KeyError, TypeError, ValueError, RecursionError):
            return {"refused": "this console is of another version; start it again"}


def person_of(name: str, roles: list[str]) -> Person:
    """The person. Raises ConfigError for a name or a role that the daemon would not take."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > PERSON_CHARS_MAX:
        raise ConfigError(f"the name of a person must have 1 to {PERSON_CHARS_MAX} printable characters")
    for role in roles:
        if role not in ROLES:
            raise ConfigError(f"{str(role)[:40]!r} is not a role; the roles are {', '.join(ROLES)}")
    if not roles:
        raise ConfigError("the link needs at least one role; name it with --role")
    return Person(name, tuple(dict.fromkeys(roles)))


def ask(folder: Path, **asked: Any) -> dict[str, Any]:
    """One question to the console whose socket is in ``folder``; blocks for SECONDS at most. Raises Refusal."""
    path = folder / NAME
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(SECONDS)
            peer.connect(os.fspath(path))
            peer.sendall(json.dumps(asked).encode() + b"\n")
            with peer.makefile("rb") as file:
                line = file.readline(ANSWER_BYTES_MAX)
    except OSError as error:
        why = ("no console is running" if error.errno in (errno.ENOENT, errno.ECONNREFUSED) else
               f"the console cannot be reached: {error.strerror or error}")
        raise Refusal("no_console", f"{why}: looked for {path}", code=Code.NOT_FOUND,
                      hint="start one with `apex-exec console`, as this user") from None
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise Refusal("not_ours", f"the console at {path} did not answer this user",
                      hint="run this as the console's user, or as root") from None
    if "refused" in answer:
        raise Refusal("refused", str(answer["refused"]), hint="`apex-exec console link --help` explains the options")
    return answer
