"""Runs the console: listens, serves until it is asked to end, and says where it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiohttp import web

from apex_exec.common.listening import listen
from apex_exec.common.own_folder import own_folder, take_lock
from apex_exec.config import Settings
from apex_exec.console.approval_pages import ApprovalPages
from apex_exec.console.control import NAME, Control, person_of
from apex_exec.console.daemon_link import DaemonLink
from apex_exec.console.guard import Guard
from apex_exec.console.market_pages import MarketPages
from apex_exec.console.money_pages import MoneyPages
from apex_exec.console.pages import Pages
from apex_exec.console.place import folder_of, place_of
from apex_exec.console.plugin_pages import PluginPages
from apex_exec.console.review_pages import ReviewPages
from apex_exec.console.sessions import Links, Person, Sessions
from apex_exec.console.support_pages import SupportPages
from apex_exec.console.upgrade_pages import UpgradePages
from apex_exec.console.web import Web

if TYPE_CHECKING:
    from apex_exec.console.oidc import Provider

END_SECONDS = 2.0
"""How long requests that are under way may take to end."""
Ready = Callable[[str, str], None]
"""``ready(origin, link)``: it listens; ``link`` signs the first person in, "" if nobody is to be."""


def run(settings: Settings, endpoint: str, first: Person | None, ready: Ready) -> int:
    """Serves until SIGTERM or SIGINT; returns 0. Blocks. Raises ConfigError before it listens."""
    return asyncio.run(_serve(settings, endpoint, first, ready))


async def _serve(settings: Settings, endpoint: str, first: Person | None, ready: Ready) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("aiohttp", "asyncio"):  # a request that is not HTTP is its sender's fault, and not worth a traceback
        logging.getLogger(name).setLevel(logging.CRITICAL)
    place = place_of(settings)
    folder = folder_of(settings)
    own_folder(folder, "console.runtime_dir", "the console")
    lock = take_lock(folder / "lock", "console.runtime_dir", "a console")
    listening = listen(place.host, place.port, "console")
    place = place.at(listening.getsockname()[1])
    links, sessions = Links(), Sessions(settings.console.session_hours * 3600)
    daemon = DaemonLink(endpoint)
    provider = _provider(settings, place.origin())
    web_ = Web(Guard(place), daemon, links, sessions, time.monotonic, provider)
    app = web_.application()
    for pages in (PluginPages, UpgradePages, Pages, ApprovalPages, ReviewPages, MarketPages, MoneyPages, SupportPages):
        pages(web_).add_to(app)

    def address(secret: str) -> str:
        return f"{place.origin()}/login?{urlencode({'token': secret})}"

    control = await Control(links, sessions, address, time.monotonic).listen(folder)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=END_SECONDS)
    await runner.setup()
    await web.SockSite(runner, listening, ssl_context=place.tls).start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    ready(place.origin(), address(links.make(first, time.monotonic())) if first is not None else "")
    try:
        await ended.wait()
    finally:
        control.close()
        await runner.cleanup()
        daemon.close()
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()
        os.close(lock)
    return 0


def _provider(settings: Settings, origin: str) -> Provider | None:
    """Who signs people in beside links. Raises ConfigError."""
    if not settings.console.oidc_issuer:
        return None
    for roles in settings.console.oidc_roles.values():
        person_of("somebody", roles)
    from apex_exec.console.oidc import Provider

    return Provider(settings.console, origin)
