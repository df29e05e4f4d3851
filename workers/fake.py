"""A fake platform for a plugin's own tests: its API answers from memory and records the calls.

``FakePlatform(plugin, rows={"SELECT …": [{…}]})`` and ``platform.call("onDataFetch", params)``, or
``platform.run_together([("onDataFetch", params), …])`` for several calls at once. Like the real platform it refuses
whatever the plugin does not declare, and payloads, results and effects that the platform would not take; it does not
parse SQL, and it fetches nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from workers import contract
from workers.runtime.values import NotAValue, check_value
from workers.sdk import Api, ApiError, ConcurrentApi, HookContext, InvalidOutput, PermissionDenied, Plugin, shaped

_WRITES = ("insert", "upsert", "update", "delete")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""When everything was stored, as far as the fake platform knows: its tests do not depend on a clock."""
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
_ABSENT = object()
USER = "11111111-2222-4333-8444-555555555555"
TURNS_MAX = 4
"""An answer in ``run_together`` comes after at most this many turns of the loop, so that others go on meanwhile."""
PLACES_MAX = 32
"""The most calls that a plugin may have at once (``limits.concurrency``)."""


LEFTOVER_SECONDS_MAX = 1.0
"""How long tasks that calls of ``run_together`` left behind may take to end."""


class Refused(AssertionError):
    """The platform would not have made this call, or would not have taken its result; ``code`` is the one that the host
    would get. It is an AssertionError, so that a test runner counts it as a failed test."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Rules(Protocol):
    """What the platform refuses: its own code, which the process that runs the tests has brought."""

    def payload(self, hook: str, params: dict[str, Any], user_id: str) -> None:
        """Raises Refused for a payload that no plugin would get."""

    def result(self, hook: str, encoded: bytes) -> None:
        """Raises Refused for a result that no host would get."""

    def collector(self, plugin: str) -> Any:
        """What collects the effects of one call."""

    def request(self, plugin: str, method: str, encoded: bytes, effects: Any) -> tuple[str, str]:
        """The code and the words with which an API call is refused for its parameters, or two empty texts."""


class Installed:
    """The rules that this process has; none if the tests run without apex-exec: then only permissions are looked at."""

    rules: Rules | None = None


class _Later:
    """The answer to an API call that was made, or its error: it is there after some turns of the loop."""

    __slots__ = ("_error", "_turns", "_value")

    def __init__(self, ask: Callable[[], Any], turns: int) -> None:
        self._value: Any = None
        self._error: ApiError | None = None
        self._turns = turns
        try:
            self._value = ask()
        except ApiError as error:
            self._error = error

    def __await__(self) -> Generator[Any, Any, Any]:
        for _ in range(self._turns):
            yield
        if self._error is not None:
            raise self._error
        return self._value


class FakePlatform:
    """Answers API calls. ``asked`` lists every call in order, as (method, parameters).

    ``rows`` maps a query's text to its rows, or to a function of the user's id that returns them (any other query
    returns none), ``responses`` maps a URL to what ``fetch``
    returns (any other is ``host_not_allowed``), and ``methods`` maps a host method to its result (any other is
    ``not_provided``). ``storage`` is what ``api.storage`` keeps, by (user, key); the user of what is common is "".
    ``written`` maps a write ("insert", "upsert", "update", "delete") to its answer, or to a function of its parameters;
    without one, an insert and an upsert answer with the rows that they were given, and an update and a delete with one
    row that was changed. ``settings`` are the values of ``context.settings``.
    """

    def __init__(self, plugin: Plugin | dict[str, Any], *, rows: dict[str, Any] | None = None,
                 responses: dict[str, Any] | None = None, methods: dict[str, Any] | None = None,
                 written: dict[str, Any] | None = None, storage: dict[tuple[str, str], Any] | None = None,
                 user_id: str = USER, settings: dict[str, Any] | None = None) -> None:
        is_map = isinstance(plugin, dict)
        self.hooks: dict[str, Any] = plugin["hooks"] if isinstance(plugin, dict) else plugin.hooks
        self.permissions = list(plugin.get("permissions", [])) if isinstance(plugin, dict) else plugin.permissions
        self.plugin_id = str(plugin["id"] if is_map else plugin.id)  # type: ignore[index,union-attr]  # by is_map
        self.user_id = user_id
        self.rows = rows or {}
        self.responses = responses or {}
        self.methods = methods or {}
        self.written = written or {}
        self.settings = settings or {}
        self.storage = dict(storage or {})
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.asked_by: list[tuple[str, str, dict[str, Any]]] = []
        """The same with the user of the call: (user, method, parameters)."""

    @property
    def effects(self) -> list[tuple[str, dict[str, Any]]]:
        """The rendered and emitted effects, in order."""
        return [(method, params) for method, params in self.asked if method in contract.EFFECTS]

    def call(self, hook: str, params: dict[str, Any] | None = None, *, timeout_ms: float = 5000) -> Any:
        """Runs a hook as a worker does and returns its result; an exception from the hook propagates."""
        function = self.hooks[hook]
        is_async = inspect.iscoroutinefunction(function)
        result = self._begin(hook, params, self.user_id, Api(self._asker(self.user_id), 0, is_async), timeout_ms)
        if is_async:
            if _runs_in_a_loop():
                result.close()
                raise RuntimeError("in a test that is a coroutine write: await platform.call_async(...)")
            loop = asyncio.new_event_loop()
            try:
                result = loop.run_until_complete(result)
            finally:
                loop.close()
        return self._checked(hook, result)

    async def call_async(self, hook: str, params: dict[str, Any] | None = None, *, timeout_ms: float = 5000) -> Any:
        """``call`` for tests that are coroutines: an async hook runs in their event loop."""
        is_async = inspect.iscoroutinefunction(self.hooks[hook])
        result = self._begin(hook, params, self.user_id, Api(self._asker(self.user_id), 0, is_async), timeout_ms)
        return self._checked(hook, await result if is_async else result)

    def run_together(self, calls: Sequence[tuple[Any, ...]], *, concurrency: int = PLACES_MAX, seed: int = 0,
                     timeout_ms: float = 5000) -> list[Any]:
        """Runs several calls at once, as a worker does whose manifest has ``limits.concurrency``, to find what goes
        wrong when calls share the module's state. Each of ``calls`` is (hook, params) or (hook, params, user id); a
        call without a user has one of its own.

        Async hooks take turns wherever they await. Answers of the API come in another order for each ``seed``, and for
        one seed always in the same. Calls of one user follow each other, and a plain ``def`` runs alone. Returns the
        results in the order of ``calls``. Raises what the first call in that order raised, with a note that names the
        call and the seed; a call that takes longer than ``timeout_ms`` raises TimeoutError.
        """
        given = [(call[0], call[1] if len(call) > 1 else None, call[2] if len(call) > 2 else _user(number))
                 for number, call in enumerate(calls)]
        loop = asyncio.new_event_loop()
        try:
            outcomes = loop.run_until_complete(self._all(given, concurrency, random.Random(seed), timeout_ms))
        finally:
            loop.close()
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                hook, _, user_id = given[number]
                outcome.add_note(f"in call {number} of run_together(…, seed={seed}): {hook} of user {user_id}")
                raise outcome
        return outcomes

    async def _all(self, calls: list[tuple[str, Any, str]], concurrency: int, chance: random.Random,
                   timeout_ms: float) -> list[Any]:
        tasks: list[asyncio.Task[Any]] = []
        latest: dict[str, asyncio.Task[Any]] = {}
        for hook, params, user_id in calls:
            is_async = inspect.iscoroutinefunction(self.hooks[hook])
            while running := [task for task in tasks if not task.done()]:
                if is_async and len(running) < concurrency:
                    break
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.ensure_future(self._one(hook, params, user_id, latest.get(user_id), chance, timeout_ms))
            tasks.append(task)
            latest[user_id] = task
            if not is_async:
                await asyncio.wait([task])
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if left := asyncio.all_tasks() - {asyncio.current_task()}:  # a worker ends them with their calls
            for leftover in left:
                leftover.cancel()
            await asyncio.wait(left, timeout=LEFTOVER_SECONDS_MAX)
        return outcomes

    async def _one(self, hook: str, params: Any, user_id: str, before: asyncio.Task[Any] | None, chance: random.Random,
                   timeout_ms: float) -> Any:
        if before is not None:
            await asyncio.wait([before])
        ask = self._asker(user_id)

        def later(seq: int, method: str, asked: dict[str, Any]) -> _Later:
            return _Later(lambda: shaped(method, ask(seq, method, asked)), chance.randint(0, TURNS_MAX))

        is_async = inspect.iscoroutinefunction(self.hooks[hook])
        api = ConcurrentApi(later, 0) if is_async else Api(ask, 0, is_async=False)
        result = self._begin(hook, params, user_id, api, timeout_ms)
        if is_async:
            async with asyncio.timeout(timeout_ms / 1000):
                result = await result
        return self._checked(hook, result)

    def _begin(self, hook: str, params: dict[str, Any] | None, user_id: str, api: Api, timeout_ms: float) -> Any:
        """Calls the hook's function. Returns its result, or a coroutine."""
        function = self.hooks[hook]
        context = HookContext(user_id, self.plugin_id, hook, time.monotonic_ns() + int(timeout_ms * 1e6), api,
                              logging.getLogger("plugin"), _encode(self.settings))
        given: dict[str, Any] = dict(params or {})
        if hook in contract.FILLS_USER:
            given.setdefault("userId", user_id)
        if Installed.rules is not None:
            Installed.rules.payload(hook, given, user_id)
        names = inspect.signature(function).parameters
        return function(**{name: value for name, value in (("context", context), ("params", given)) if name in names})

    def _checked(self, hook: str, result: Any) -> Any:
        field = contract.WIDGETS.get(hook, "")
        if field and isinstance(result, dict) and result.get(field) and "ui:render" not in self.permissions:
            raise PermissionDenied("permission_denied", f"{field} need ui:render", method="renderWidget")
        if Installed.rules is not None:
            try:
                check_value(result)
            except NotAValue as error:
                raise Refused("INVALID_OUTPUT", f"{error.path}: {error}") from None
            Installed.rules.result(hook, _encode(result))
        return result

    def _asker(self, user_id: str) -> Callable[[int, str, dict[str, Any]], Any]:
        effects = Installed.rules.collector(self.plugin_id) if Installed.rules is not None else None
        return lambda _seq, method, params: self._ask(user_id, method, params, effects)

    def _ask(self, user_id: str, method: str, params: dict[str, Any], effects: Any = None) -> Any:
        self.asked.append((method, params))
        self.asked_by.append((user_id, method, params))
        if method == "call":
            name = str(params["method"])
            wanted = next((p for prefix, p in contract.PREFIXES.items() if name.startswith(prefix)), "")
        else:
            wanted = contract.PERMISSIONS[method]
        if wanted not in self.permissions:
            raise PermissionDenied("permission_denied", f"{method} needs {wanted or 'an admin permission'}",
                                   method=method)
        if Installed.rules is not None:
            self._held_to_the_rules(Installed.rules, method, params, effects)
        if method in _WRITES:
            return self._write(method, params)
        if method.startswith("storage."):
            return self._keep(user_id, method.removeprefix("storage."), params)
        if method == "query":
            rows = self.rows.get(params["sql"], [])
            return rows(user_id) if callable(rows) else rows
        if method == "fetch":
            return self._known(self.responses, params["url"], "host_not_allowed", method)
        if method == "call":
            return self._known(self.methods, params["method"], "not_provided", method)
        return None

    def _held_to_the_rules(self, rules: Rules, method: str, params: dict[str, Any], effects: Any) -> None:
        """Raises what the SDK raises for parameters that the platform refuses."""
        if method in contract.CARRIED:
            try:
                check_value(params)
            except NotAValue as error:
                raise InvalidOutput("invalid_output", f"{error.path[:200]}: {error}", method=method) from None
        try:
            encoded = _encode(params)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ApiError("invalid_params", str(error), method=method) from None
        code, message = rules.request(self.plugin_id, method, encoded, effects)
        if code:
            raise (InvalidOutput if code == "invalid_output" else ApiError)(code, message, method=method)

    def _write(self, method: str, params: dict[str, Any]) -> Any:
        """What the gateway would answer, as far as it can be known without a database."""
        asked = params.get("returning")
        if asked and method != "insert" and "data:read" not in self.permissions:
            raise PermissionDenied("permission_denied", f"{method} with returning also needs data:read", method=method)
        if method in self.written:
            answer = self.written[method]
            return answer(params) if callable(answer) else answer
        values = params.get("values", {}) if method in ("insert", "upsert") else {}
        is_single = isinstance(values, dict)
        rows = [values] if is_single else values
        answer = {"rowCount": len(rows)}
        if asked is None and method == "insert" and is_single:
            asked = True
        if asked:
            shown = [row if asked is True else {name: row.get(name) for name in asked} for row in rows]
            answer |= {"row": shown[0]} if is_single and method in ("insert", "upsert") else {"rows": shown}
        return answer

    def _keep(self, user_id: str, verb: str, params: dict[str, Any]) -> Any:
        """``api.storage``: values are copied on their way in and out, as the real storage does."""
        user = "" if params["common"] else user_id
        if verb == "list":
            begin, after = params["prefix"].encode(), params["after"].encode()
            keys = sorted(key.encode() for owner, key in self.storage if owner == user)
            found = [key.decode() for key in keys if key.startswith(begin) and key > after][: params["limit"]]
            return [{"key": key, "bytes": len(_encode(self.storage[user, key])), "updatedAt": EPOCH} for key in found]
        place = (user, params["key"])
        if verb == "set":
            self.storage[place] = _decode(_encode(params["value"]))
            return None
        if verb == "delete":
            return self.storage.pop(place, _ABSENT) is not _ABSENT
        return _decode(_encode(self.storage.get(place)))

    @staticmethod
    def _known(table: dict[str, Any], key: str, code: str, method: str) -> Any:
        if key not in table:
            raise ApiError(code, f"the fake platform does not know {key}", method=method)
        return table[key]


def _runs_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _user(number: int) -> str:
    """The id of the user of call ``number``: the first is USER."""
    return f"{USER[:-12]}{int(USER[-12:]) + number:012d}"
