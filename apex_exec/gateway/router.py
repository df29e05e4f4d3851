"""Receives API calls on the link, runs each as a task, and sends its answer. Everything here is bounded.

The supervisor has already decided on permission, rate and the owner of the call; we do not check these again. What
depends on the content (SQL, URLs, addresses) is decided here and nowhere else. A call ends when its time is over or
when it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from apex_exec import extras
from apex_exec.catalogue import methods
from apex_exec.common.sqlite import path_of
from apex_exec.core.fair import FairQueue
from apex_exec.core.limits import MS_NS
from apex_exec.gateway import messages
from apex_exec.gateway.costs import COST, Cost, at_work, counted, stepped
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.messages import Call
from apex_exec.gateway.sql.tables import Table, read_tables
from apex_exec.gateway.storage import Storage
from apex_exec.gateway.user_lanes import UserLanes
from apex_exec.storage.entries import RECORD_IDS
from apex_exec.wire.side_link import Handlers
from apex_exec.wire.values import MEMBERS_MAX, check_keys

if TYPE_CHECKING:
    from apex_exec.gateway.data import Data
    from apex_exec.gateway.http.fetch import Fetcher
    from apex_exec.gateway.outbox import Keeper

log = logging.getLogger("apex_exec.gateway")

CALLS_MAX = 512
"""The most calls in flight; the supervisor bounds those of one invocation. No plugin holds more than are left for all
others: two plugins of 32 invocations at once, with eight calls each, would fill it."""
DATABASE_CALLS_PER_PLUGIN_MAX = 2
"""How many calls of one plugin may use the database at once; more calls wait, within their own time. This keeps a
plugin from holding every connection."""
BURST_NS = 100 * MS_NS
"""How much CPU time of this process and its helper a plugin may use at once beyond its share. A plugin in debt has its
next calls delayed; calls that are running continue."""
AT_ONCE_NS = 5 * MS_NS
"""How long queries may run at once, before the event loop looks for anything else."""
TIDY_SECONDS = 0.25
"""How often records that the ledger has on disk are deleted from the outbox: many records in one transaction."""
SWEEP_SECONDS = 5.0
"""How often the outbox is searched for records that were never handed over."""

_encode = msgspec.msgpack.Encoder().encode

Send = Callable[[msgspec.Struct], None]
Answer = tuple[bytes, dict[str, Any]]
"""The encoded result, and what the audit record says of the call."""


class Router:
    """All calls in flight. ``send`` puts one message on the link to the supervisor."""

    def __init__(self, settings: dict[str, Any], send: Send) -> None:
        self._settings = settings
        self._send = send
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._held: Counter[str] = Counter()
        """By plugin: how many of the tasks are its calls."""
        self._passes: dict[int, asyncio.Future[int]] = {}
        self._is_local = path_of(settings["data_url"]) is not None
        self._tables: dict[str, Table] = read_tables(settings["tables"], "sqlite" if self._is_local else "postgres")
        self._data: Data | None = None
        self._storage: Storage | None = None
        self._fetcher: Fetcher | None = None
        self._kept: set[asyncio.Task[None]] = set()
        self._lanes: dict[str, UserLanes] = {}
        self._accounts: FairQueue[None] = FairQueue(BURST_NS)
        self._at_once_ns = AT_ONCE_NS
        self.handlers: Handlers = {
            Call: self._call, messages.Cancel: self._cancel, messages.Pass: self._pass,
            messages.Recorded: self._recorded, messages.TenantsAsked: self._tenants}

    # ------------------------------------------------------------------ beginning and end
    def warm(self) -> None:
        """Prepares what the configuration uses, so that the first call need not wait for imports."""
        with contextlib.suppress(ApiFailure):  # if it fails, each call that needs it reports the reason
            if self._tables:
                self.data.warm()
        if any(table.write for table in self._tables.values()):
            self._keep(self._tend(lambda: self.data.outbox))
        with contextlib.suppress(ApiFailure):
            path = path_of(self._settings["storage"]["url"])
            if path is None or path.is_file():  # it was used before, and a record may wait in its outbox
                _ = self.storage
        with contextlib.suppress(ApiFailure):
            if self._settings["hosts"]:
                _ = self.fetcher

    @property
    def data(self) -> Data:
        """The platform's database. Raises ApiFailure."""
        if self._data is None:
            if not extras.is_installed("data"):
                raise ApiFailure("table_not_allowed", extras.words("data", "a plugin's query or write"))
            # importing sqlglot takes a tenth of a second, and not every daemon needs it
            from apex_exec.gateway.data import Data
            self._data = Data(self._settings["data_url"], self._tables, self._settings["origin"], self._send,
                              prepared=self._settings["prepared"], log_ahead=self._settings["log_ahead"])
        return self._data

    @property
    def storage(self) -> Storage:
        """What plugins keep for themselves. Raises ApiFailure."""
        if self._storage is None:
            if not extras.is_installed("registry"):
                raise ApiFailure("data_unavailable", extras.words("registry", "a plugin's storage"))
            self._storage = Storage(self._settings["storage"], self._settings["origin"], self._send)
            self._keep(self._tend(lambda: self.storage.outbox))
        return self._storage

    @property
    def fetcher(self) -> Fetcher:
        """The access to the network. Raises ApiFailure."""
        if self._fetcher is None:
            if not extras.is_installed("fetch"):
                raise ApiFailure("host_not_allowed", extras.words("fetch", "a plugin's request"))
            from apex_exec.gateway.http.fetch import Fetcher  # aiohttp, for the same reason
            self._fetcher = Fetcher(self._settings["hosts"], self._settings["allow_private"],
                                    internal=self._settings["internal"], ca_file=self._settings["ca_file"])
        return self._fetcher

    async def close(self) -> None:
        """Ends every call and closes every connection."""
        tasks = [*self._tasks.values(), *self._kept]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._data is not None:
            await self._data.close()
        if self._storage is not None:
            await self._storage.close()
        if self._fetcher is not None:
            await self._fetcher.close()

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    async def _tend(self, outbox: Callable[[], Keeper]) -> None:
        """Hands over what a cancelled write or a crash has left in an outbox, and deletes what is recorded."""
        sweep_at, said = 0.0, ""
        while True:
            try:
                while await outbox().tidy():
                    pass
                if time.monotonic() >= sweep_at:
                    await outbox().sweep()
                    sweep_at = time.monotonic() + SWEEP_SECONDS
            except ApiFailure as failure:  # we try again later; nothing is lost meanwhile
                if failure.message != said:
                    log.warning("an outbox cannot be read; this is tried again: %s", failure.message)
                    said = failure.message
                await asyncio.sleep(1.0)
            await asyncio.sleep(TIDY_SECONDS)

    # ------------------------------------------------------------------ messages from the supervisor
    def _call(self, call: Call) -> None:
        if self._held[call.plugin] >= CALLS_MAX - len(self._tasks):
            self._send(_failed(call, ApiFailure("overloaded", "the gateway is full, or it has as many calls of this "
                                                              "plugin as are left for all others")))
            return
        spent_ns = 0
        if self._is_local and call.method == "query" and self._data is not None and self._at_once_ns > 0:
            now_ns, begun_ns = time.monotonic_ns(), time.thread_time_ns()
            answer = self._query_at_once(self._data, call, now_ns)
            spent_ns = time.thread_time_ns() - begun_ns
            self._count_at_once(spent_ns)
            if answer is not None:
                self._charge(call, spent_ns)
                work = (now_ns, time.monotonic_ns()) if call.is_traced else None
                self._send(messages.Done(call.id, *answer, work))
                return
        task = self._tasks[call.id] = asyncio.ensure_future(self._run(call, spent_ns))
        self._held[call.plugin] += 1
        task.add_done_callback(lambda _: self._ended(call))

    def _ended(self, call: Call) -> None:
        """The task of ``call`` is over. One that was cancelled before its first step has run no line of ``_run``."""
        self._held[call.plugin] -= 1
        if not self._held[call.plugin]:
            del self._held[call.plugin]
        if self._tasks.pop(call.id, None) is not None:
            self._send(_failed(call, ApiFailure("cancelled", "the invocation has ended; nothing was changed")))

    def _cancel(self, message: messages.Cancel) -> None:
        task = self._tasks.get(message.id)
        if task is not None:
            task.cancel()

    def _pass(self, message: messages.Pass) -> None:
        waiting = self._passes.pop(message.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message.retry_ms)

    def _tenants(self, message: messages.TenantsAsked) -> None:
        self._keep(self._find_tenants(message))

    async def _find_tenants(self, message: messages.TenantsAsked) -> None:
        """Says which tenants a user has. The supervisor asks this for itself, so no plugin pays for it."""
        tenants, trouble = [], ""
        try:
            async with asyncio.timeout(max(0.0, (message.due_ns - time.monotonic_ns()) / 1e9)):
                tenants = await self.data.tenants(message.user_id, message.due_ns)
        except TimeoutError:
            trouble = "the database did not answer in time"
        except ApiFailure as failure:
            trouble = failure.message[:200]
        self._send(messages.TenantsFound(message.user_id, tenants, trouble))

    def _recorded(self, message: messages.Recorded) -> None:
        kept = [one for one in message.ids if one.startswith(RECORD_IDS)]
        if kept:
            self.storage.outbox.recorded(kept)
        if len(kept) < len(message.ids):
            self.data.outbox.recorded([one for one in message.ids if not one.startswith(RECORD_IDS)])

    def _query_at_once(self, data: Data, call: Call, now_ns: int) -> Answer | None:
        """The answer to a query that takes a fraction of a millisecond, without a task or a thread. None if there is
        anything about it that may take longer, or that went wrong: then it takes the long way.

        A plugin whose calls are under way at the database waits for one of its places there, as always."""
        if now_ns >= call.due_ns or call.plugin in self._lanes:
            return None
        self._accounts.tune(call.plugin, call.share, now_ns)
        if self._accounts.wait_ns(call.plugin, now_ns):
            return None
        try:
            request = _decoded(call)
        except ApiFailure:
            return None
        return data.query_at_once(cast("methods.Query", request), call.tables, call.user_id, call.due_ns)

    def _count_at_once(self, spent_ns: int) -> None:
        if self._at_once_ns == AT_ONCE_NS:
            asyncio.get_running_loop().call_soon(self._reset_at_once)
        self._at_once_ns -= max(1, spent_ns)

    def _reset_at_once(self) -> None:
        self._at_once_ns = AT_ONCE_NS

    def _charge(self, call: Call, cpu_ns: int) -> None:
        if cpu_ns:
            self._accounts.spend(call.plugin, cpu_ns, time.monotonic_ns())
            self._send(messages.Spent(call.plugin, cpu_ns))

    async def _run(self, call: Call, spent_ns: int) -> None:
        """Answers a call that has cost ``spent_ns`` already."""
        cost = Cost(call.is_traced)
        cost.cpu_ns = spent_ns
        COST.set(cost)
        answer: messages.Done | messages.Failed | None = None
        try:
            async with asyncio.timeout(max(0.0, (call.due_ns - time.monotonic_ns()) / 1e9)):
                await self._turn(call)
                value, facts = await self._work(call)
            answer = messages.Done(call.id, value, facts)
        except TimeoutError:
            answer = _failed(call, ApiFailure("deadline_exceeded", "the invocation's time ended during the call"))
        except ApiFailure as failure:
            answer = _failed(call, failure)
        # the worker already has its answer; the audit record needs to know what happened to a write
        except asyncio.CancelledError:
            answer = _failed(call, ApiFailure("cancelled", "the invocation has ended; nothing was changed"))
        except Exception as error:  # noqa: BLE001 - a bug of ours ends this call, not everybody's
            log.error("%s of %s failed: %s: %s", call.method, call.plugin, type(error).__name__, error)
            answer = _failed(call, ApiFailure(methods.METHODS[call.method].away, "internal error of the gateway"))
        finally:
            self._tasks.pop(call.id, None)
            self._passes.pop(call.id, None)
            self._charge(call, cost.cpu_ns)
            if answer is not None:
                answer.work = cost.work
                self._send(answer)

    async def _turn(self, call: Call) -> None:
        """Waits while the plugin has used more of this process's time than its share."""
        now_ns = time.monotonic_ns()
        self._accounts.tune(call.plugin, call.share, now_ns)
        while wait_ns := self._accounts.wait_ns(call.plugin, now_ns):
            await asyncio.sleep(wait_ns / 1e9)
            now_ns = time.monotonic_ns()

    async def _work(self, call: Call) -> Answer:
        with counted():
            request = _decoded(call)
        return await HANDLERS[call.method](self, call, request)

    async def _fetch(self, call: Call, request: Any) -> Answer:
        with at_work():
            reply, facts = await stepped(self.fetcher.fetch(request, call.hosts, lambda: self._may_hop(call),
                                                            call.secrets))
        with counted():
            return _encode(reply), facts

    async def _query(self, call: Call, request: Any) -> Answer:
        async with self._place(call):
            return await self.data.query(request, call.tables, call.plugin, call.share, call.user_id, call.due_ns)

    async def _write(self, call: Call, request: Any) -> Answer:
        if request.returning and not call.may_read and not isinstance(request, methods.Insert):
            raise ApiFailure("permission_denied", f"{call.method} with returning also needs data:read; the manifest "
                                                  "must ask for it")
        async with self._place(call):
            return await self.data.write(request, call.tables, call.plugin, call.user_id, call.due_ns)

    async def _keeps(self, call: Call, request: Any) -> Answer:
        async with self._place(call):
            with at_work():
                return await self.storage.answer(call, request)

    @contextlib.asynccontextmanager
    async def _place(self, call: Call) -> AsyncIterator[None]:
        """Takes one of the plugin's places at the database. The lanes are deleted once nobody uses or wants a place."""
        lanes = self._lanes.setdefault(call.plugin, UserLanes(DATABASE_CALLS_PER_PLUGIN_MAX))
        try:
            async with lanes.place(call.user_id):
                yield
        finally:
            if lanes.is_idle:
                self._lanes.pop(call.plugin, None)

    async def _may_hop(self, call: Call) -> None:
        """Asks the supervisor for one more request of this call: redirects count as requests. Raises ApiFailure."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._passes[call.id] = answer
        self._send(messages.Hop(call.id))
        retry_ms = await answer
        if retry_ms:
            raise ApiFailure("rate_limited", "the plugin has made its requests of this minute, and this redirect "
                                             "would be one more", retry_ms)


HANDLERS: dict[str, Callable[[Router, Call, Any], Awaitable[Answer]]] = {
    "query": Router._query, "insert": Router._write, "upsert": Router._write, "update": Router._write,
    "delete": Router._write, "fetch": Router._fetch, **dict.fromkeys(
        ("storage.get", "storage.set", "storage.delete", "storage.list"), Router._keeps),
}
"""What the gateway does for each method of the catalogue whose route leads here."""


def _failed(call: Call, failure: ApiFailure) -> messages.Failed:
    return messages.Failed(call.id, failure.code, failure.message, failure.retry_after_ms)


def _decoded(call: Call) -> methods.Request:
    """The call's parameters, decoded. Raises ApiFailure."""
    try:
        check_keys(call.params, MEMBERS_MAX)
        return methods.decode(call.method, call.params)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ApiFailure("invalid_params", str(error)[:200]) from None
