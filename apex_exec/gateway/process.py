"""The gateway process: asyncio around the link to the supervisor, and a router. It lives until the link ends."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
from typing import Any

from apex_exec.gateway.router import Router
from apex_exec.wire.side_link import AsyncEnd

MEMORY_BYTES_MAX = 1 << 30
"""Soft RLIMIT_DATA. We cannot bound the size of a value that a database sends; this limit does, and ends only this
process."""

CLOSE_SECONDS = 5.0
"""How long a call that cannot be stopped may keep this process after the end of the link: if the supervisor was killed,
nobody else will end the process."""


async def _serve(fd: int, settings: dict[str, Any]) -> None:
    ended = asyncio.Event()
    end = AsyncEnd(fd, asyncio.get_running_loop(), ended)
    router = Router(settings, end.send)
    end.serve(router.handlers)
    router.warm()
    gc.freeze()  # imported modules stay for ever; the garbage collector need not visit them
    await ended.wait()
    asyncio.get_running_loop().call_later(CLOSE_SECONDS, os._exit, 1)
    await router.close()


def main(link: Any, settings: dict[str, Any]) -> None:
    """Serves ``link`` until EOF. ``settings``: tables, data_url, prepared, log_ahead, storage, origin, hosts,
    allow_private, internal, ca_file; and log, which ``side_process`` has applied before it calls this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > MEMORY_BYTES_MAX:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES_MAX, hard))
    asyncio.run(_serve(link.fileno(), settings))
