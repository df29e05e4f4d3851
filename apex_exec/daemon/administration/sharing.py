"""This daemon's part in a registry on a server, which other daemons may share and which may be away.

*Follows*: what others change is read when they say so (``registry.listening``) and, whatever was missed, in a
comparison after each new connection and every half minute. *Stands in*: while the server does not answer at a start,
what was last known is served (``last_known``). *Away*: what was read is served on; what was paid for still ends in
time; no operation changes anything. `registry_age_seconds` says how old what is served may be.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from apex_exec.config import Settings
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration import last_known
from apex_exec.daemon.administration import registrar_messages as messages
from apex_exec.daemon.administration.last_known import Known
from apex_exec.daemon.administration.telling import Ends, Telling
from apex_exec.errors import Refusal
from apex_exec.market import service as market
from apex_exec.market.store import CHANNEL as MARKET_CHANNEL
from apex_exec.registry import store as registry
from apex_exec.registry.context import Context
from apex_exec.registry.listening import Listener
from apex_exec.registry.plugin_settings import publishing
from apex_exec.registry.plugin_settings.rows import Row
from apex_exec.registry.specs import reconcile, served_now

STAND_IN_SECONDS = 2.0
"""How long a start waits for the server before it serves what was last known."""
COMPARE_SECONDS = 30.0
TICK_SECONDS = 0.5
STORE_SECONDS = 1.0
"""How often the file of what is known may be written because something changed."""
STORE_AGAIN_SECONDS = 60.0
"""And how often because it was compared again."""
CLOCK_NS, CLOCK_TOLD_NS = 2 * 10**9, 60 * 10**9
"""A clock that differs from the server's by more than this is not used for rows; by more than that, it is reported."""
log = logging.getLogger("apex_exec.registrar")


class _Mark(NamedTuple):
    """What the database said in one look: what its rows come to, and the number of its latest change."""

    fingerprint: str
    change: int


class Sharing:
    """``lock`` is the registrar's: no operation's notice comes between a reading of rows and what is sent of it."""

    def __init__(self, settings: Settings, telling: Telling, lock: Any,
                 send: Callable[[msgspec.Struct], None]) -> None:
        self._settings = settings
        url, state = settings.database_url(settings.registry.url), settings.state_path
        self.away = False
        """True while the server does not answer."""
        self.ahead_ns = 0
        """How far this machine's clock is ahead of the server's, if that is more than a round trip can explain."""
        self._url, self._state, self._telling, self._lock, self._send = url, state, telling, lock, send
        telling.keeps = True
        self._store = last_known.store_of(url)
        self._begun = self._stood_in = self._behind = False
        self._mark = _Mark("", 0)
        self._current = time.monotonic()
        self._age_before = 0.0
        """How old what is known was at ``_current``."""
        self._stored = self._compared = 0.0
        self._rows: list[Row] = []
        """What is set for plugins, for the file of what is known."""
        self._ends: Callable[[Context], Ends] = lambda _: {}

    # ------------------------------------------------------------------ the start
    def stand_in(self) -> None:
        """Waits, and serves what was last known if the database has not been read by then."""
        time.sleep(STAND_IN_SECONDS)
        if not self._begun:
            self.stands_in(f"it has not answered for {STAND_IN_SECONDS:g} s")

    def stands_in(self, why: str) -> bool:
        """Serves what was last known, because of ``why``, until the database can be read. False if nothing is known."""
        with self._lock:
            if self._begun or self._stood_in:
                self._telling.end_rights(time.time_ns())
                return True
            self.away = True
            try:
                known = last_known.read(self._state, self._store)
            except Refusal as error:
                log.error("%s; %s", error.message, error.hint)
                return False
            if known is None:
                return False
            self._stood_in = True
            self._take(known)
            self._tell_settings(known.settings)  # first: no plugin is served without its settings
            count = self._telling.everything(known.specs)
            self._telling.end_rights(time.time_ns())
        self._send(messages.Ready(count))
        self._send(messages.Health(""))
        log.error("the registry cannot be used (%s); until it can, %d plugins are served as they were known %.0f s ago",
                  why, count, self._age_before)
        self._tell_age()
        threading.Thread(target=self._ageing, name="registrar-age", daemon=True).start()
        return True

    def _tell_settings(self, rows: list[Row]) -> None:
        def tell(plugin: str, sets: list[publishing.Set], whole: bool, locked: str) -> None:
            self._send(messages.SettingsOf(plugin, sets, whole, locked))

        keys = publishing.keys_of(self._settings, rows)
        named = []
        for plugin, owned in groupby(rows, lambda row: row.plugin):
            publishing.tell_rows(tell, plugin, list(owned), keys)
            named.append(plugin)
        self._send(messages.SettingsTold(named))

    def note_settings(self, rows: list[Row]) -> None:
        """What is set for plugins is this from now on. Under the lock."""
        self._rows = rows
        self._telling.changed = True

    def _take(self, known: Known) -> None:
        self._telling.held, self._telling.ends = set(known.held), known.ends
        self._mark = _Mark("", known.change)
        self._current, self._age_before = time.monotonic(), max(0.0, (time.time_ns() - known.at_ns) / 1e9)

    def _ageing(self) -> None:
        while not self._begun:
            time.sleep(TICK_SECONDS)
            self._tell_age()

    def begin(self, context: Context, ends: Callable[[Context], Ends]) -> int:
        """Reads every row for the first time and has it served; how many plugins. Raises Refusal."""
        if not self._stood_in:
            try:
                known = last_known.read(self._state, self._store)
            except Refusal as error:
                log.error("%s; %s", error.message, error.hint)
                known = None
        mark = self._look(context)
        specs = reconcile(context, sweep=True)
        with self._lock:
            self._begun = True
            if not self._stood_in and known is not None:
                self._take(known)
                self._telling.remember(known.specs)
            self._if_set_back(context, mark, specs)
            count = self._telling.everything(specs)
            self._now_current(mark)
        self._ends = ends
        self._compared = time.monotonic()
        return count

    # ------------------------------------------------------------------ later
    def follow(self, context: Callable[[], Context | None], audit: Callable[[str, str, dict[str, Any]], None]) -> None:
        """From now on, takes over what others change. Starts threads and returns."""
        self._context, self._audit = context, audit
        settings = context().settings  # type: ignore[union-attr]  # the store is open
        market_url = settings.database_url(settings.market.url)
        channels = (registry.CHANNEL, MARKET_CHANNEL) if market_url == self._url else (registry.CHANNEL,)
        self._listen("registry", self._url, channels, self._connected, self._is_current, self._lost)
        if market_url != self._url and not market_url.startswith("sqlite"):
            self._listen("market", market_url, (MARKET_CHANNEL,), self._market_changed, lambda: None, lambda _: None)
        threading.Thread(target=self._watch, name="registrar-watch", daemon=True).start()

    def _listen(self, name: str, url: str, channels: tuple[str, ...], connected: Callable[[], None],
                current: Callable[[], None], lost: Callable[[str], None]) -> None:
        listener = Listener(url, channels, heard=self._heard, connected=connected, current=current, lost=lost)
        threading.Thread(target=listener.run, name=f"registrar-listens-{name}", daemon=True).start()

    def _heard(self, channel: str, payload: str) -> None:
        context = self._context()
        if context is None:
            return
        if channel == MARKET_CHANNEL:
            if payload != context.store.sender:
                self._market_changed()
            return
        plugins = registry.plugins_told(payload, context.store.sender)
        if plugins is None:
            self._behind = True
            self._catch_up()
        else:
            try:
                self._take_over(context, plugins)
            except Exception as error:  # noqa: BLE001 - whatever it is, everything is compared soon
                log.error("the changes that another daemon made to the registry could not be read, which is tried "
                          "again: %s", error)
                self._behind = True

    def _take_over(self, context: Context, plugins: set[str]) -> None:
        """Has ``plugins`` served as the rows say, and notes how far the registry has come. ``plugins`` is empty after a
        change of this daemon's own, which only has to be noted: a database that is set back loses it as well."""
        def work(db: sa.Connection) -> tuple[list[PluginSpec], int]:
            return served_now(context, db, plugins), registry.changes(db)

        with self._lock:
            specs, change = context.store.transact(work)
            if change < self._mark.change:
                self._behind = True  # it was set back: the comparison says of which plugins
                return
            if change > self._mark.change:
                self._mark = self._mark._replace(change=change)
                self._telling.changed = True
            self._telling.release(plugins)
            self._telling.some(specs)
            for plugin in sorted(plugins - {spec.id for spec in specs}):
                self._telling.removed(plugin)

    def _market_changed(self) -> None:
        context = self._context()
        if context is not None:
            market.look_again(context)

    def _connected(self) -> None:
        if self.away:
            log.warning("the registry's server answers again")
        self.away = False
        self._behind = True
        self._catch_up()

    def _lost(self, why: str) -> None:
        if not self.away:
            log.error("the registry's server does not answer (%s); the plugins last read from it are still served", why)
        self.away = True
        context = self._context()
        if context is not None:
            self._telling.ends = self._ends(context)

    def _is_current(self) -> None:
        if not self._behind:
            self._current, self._age_before = time.monotonic(), 0.0

    def _catch_up(self) -> None:
        context = self._context()
        try:
            if context is not None:
                self.compare(context)
        except Exception as error:  # noqa: BLE001 - it is tried again in a second
            log.error("the plugins that are served could not be compared with the registry, which is tried again: "
                      "%s", error)
            self._behind = True

    def compare(self, context: Context, *, anew: bool = False) -> None:
        """Makes every spec again and tells what differs, if the rows differ from those of the last time, or ``anew``.

        Raises Refusal."""
        with self._lock:
            self._compared = time.monotonic()
            mark = self._look(context)
            if anew or mark.fingerprint != self._mark.fingerprint or mark.change < self._mark.change:
                specs = reconcile(context)
                self._if_set_back(context, mark, specs)
                self._telling.differences(specs)
            self._now_current(mark)

    def _look(self, context: Context) -> _Mark:
        """Raises Refusal."""
        def work(db: sa.Connection) -> tuple[_Mark, int]:
            now = db.execute(sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")).scalar_one()
            return _Mark(registry.fingerprint(db), registry.changes(db)), int(now) * 1000

        before_ns = time.time_ns()
        mark, server_ns = context.store.transact(work)
        after_ns = time.time_ns()
        ahead_ns = 0
        if not before_ns - CLOCK_NS <= server_ns <= after_ns + CLOCK_NS:
            ahead_ns = (before_ns + after_ns) // 2 - server_ns
        if abs(ahead_ns) > CLOCK_TOLD_NS >= abs(self.ahead_ns):
            log.error("this machine's clock is %.0f s %s that of the registry's server: rows get the server's time, "
                      "and the ledger this machine's; set the clock right", abs(ahead_ns) / 1e9,
                      "ahead of" if ahead_ns > 0 else "behind")
        self.ahead_ns = ahead_ns
        return mark

    def _if_set_back(self, context: Context, mark: _Mark, specs: list[Any]) -> None:
        """Reports a database that is older than what this daemon has seen of it, and keeps out of service what has been
        taken out of it since."""
        if mark.change >= self._mark.change:
            return
        back = self._telling.hold(specs)
        log.error("the registry was set back to an older copy (change %d after %d); out of service until an operator "
                  "decides about them again: %s", mark.change, self._mark.change, ", ".join(back) or "none")
        context.audit("registry", "registry.set_back", {"change": mark.change, "seen": self._mark.change, "held": back})

    def _now_current(self, mark: _Mark) -> None:
        self._mark = mark
        self._behind = False
        self._current, self._age_before = time.monotonic(), 0.0

    # ------------------------------------------------------------------ about twice a second
    def _watch(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            try:
                self._tick()
            except Exception:
                log.exception("the registry's upkeep failed")

    def _tick(self) -> None:
        context = self._context()
        if context is None:
            return
        now = time.monotonic()
        self._tell_age()
        if self.away:
            with self._lock:
                self._telling.end_rights(time.time_ns() - self.ahead_ns)
        elif self._behind or now - self._compared >= COMPARE_SECONDS:
            self._catch_up()
        due = STORE_SECONDS if self._telling.changed else STORE_AGAIN_SECONDS
        if not self.away and not self._behind and now - self._stored >= due:
            self._stored = now
            self._telling.ends = self._ends(context)
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._telling.changed = False
            known = Known(time.time_ns() - int(self._age() * 1e9), self._store, self._mark.change, self._telling.told,
                          sorted(self._telling.held), self._telling.ends, self._rows)
        try:
            last_known.keep(self._state, known)
        except OSError as error:
            log.error("the list of served plugins could not be written to %s, so it may be out of date at the next "
                      "start: %s", self._state / last_known.NAME, error.strerror)

    def _age(self) -> float:
        return self._age_before + time.monotonic() - self._current

    def _tell_age(self) -> None:
        self._send(messages.Metric("registry_age_seconds", (), self._age()))
