"""The SDK that plugin code uses: ``Plugin``, ``HookContext``, the API and its errors.

Its checks only help authors; the supervisor enforces every rule again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from workers.api_methods import ApiMethods

_decode = msgspec.msgpack.Decoder().decode
Hook = TypeVar("Hook", bound=Callable[..., Any])


class ApiError(Exception):
    """An API call failed; ``code`` is one of the protocol's table."""

    def __init__(self, code: str, message: str = "", *, method: str = "", retry_after_ms: int = 0) -> None:
        super().__init__(message or code)
        self.code = code
        self.method = method
        self.retry_after_ms = retry_after_ms


class PermissionDenied(ApiError):
    """The plugin may not do this."""


class RateLimited(ApiError):
    """Too many calls; ``retry_after_ms`` says when the next one may pass."""


class DeadlineExceeded(ApiError):
    """The invocation's time is over."""


class InvalidOutput(ApiError):
    """An effect or a host call's parameters contain a value that the protocol cannot carry; ``path`` says where. Unless
    the hook handles it, the invocation ends as ``INVALID_OUTPUT``, as it does for such a value in a result."""

    @property
    def path(self) -> str:
        """Where the value is in the call's parameters, such as "$.payload.when"."""
        path, colon, _ = str(self).partition(": ")
        return path if colon and path.startswith("$") else "$"


class Plugin:
    """A plugin and its hooks. ``@plugin.hook("onDashboardLoad")`` registers a hook."""

    def __init__(self, id: str, version: str, permissions: list[str] | None = None) -> None:
        self.id = id
        self.version = version
        self.permissions = list(permissions or [])
        self.hooks: dict[str, Callable[..., Any]] = {}

    def hook(self, name: str) -> Callable[[Hook], Hook]:
        """Registers the decorated function as the hook ``name``."""

        def register(function: Hook) -> Hook:
            self.hooks[name] = function
            return function

        return register


class Fetched(dict[str, Any]):
    """What ``fetch`` answers: a map with ``status``, ``headers`` and ``body``. The methods read the body as the plugin
    needs it; ``bytes`` gives what the server sent, after decompression, whatever ``body`` is."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(reply)
        self._raw = self.pop("raw", None)

    @property
    def ok(self) -> bool:
        """Whether the status is one of success, 200 to 299."""
        return bool(200 <= self["status"] <= 299)

    def text(self) -> str:
        """The body as text. Bytes are read as UTF-8, with U+FFFD in place of what is not."""
        body = self["body"]
        return body if isinstance(body, str) else body.decode("utf-8", "replace")

    def bytes(self) -> bytes:
        """The body as bytes."""
        body = self._raw if self._raw is not None else self["body"]
        return body.encode() if isinstance(body, str) else body

    def json(self) -> Any:
        """The value that the body is in JSON. Raises ValueError."""
        return json.loads(self.text().removeprefix("\ufeff") if isinstance(self["body"], str) else self.bytes())


class _Done:
    """The value of a finished call, which ``async def`` code may await."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Any:
        return self._value
        yield


class _Failed:
    """A failed call for ``async def`` code: awaiting it raises the error, as ``gather`` expects."""

    __slots__ = ("_error",)

    def __init__(self, error: ApiError) -> None:
        self._error = error

    def __await__(self) -> Any:
        raise self._error
        yield


class Api(ApiMethods):
    """The platform's API. Every method blocks until the supervisor has answered; an async hook awaits it instead.

    ``asyncio.gather`` makes calls at once, up to eight of one hook; more wait for their turn, in the order in which
    they were made. ``emit`` and ``render_widget`` need no answer: they travel with the hook's result. ``seq`` is the
    call on the link for which this API was made: a task that outlives its hook acts for that hook and for no other.
    ``effect`` makes an effect (without it, ``ask`` does); ``begin`` makes a call of a hook with an event loop and
    returns what the hook awaits.
    """

    def __init__(self, ask: Callable[[int, str, dict[str, Any]], Any], seq: int, is_async: bool,
                 effect: Callable[[int, str, dict[str, Any]], Any] | None = None,
                 begin: Callable[[str, dict[str, Any]], Any] | None = None) -> None:
        self._ask = ask
        self._seq = seq
        self._is_async = is_async
        self._make = effect
        self._begin = begin

    def _call(self, api_method: str, /, **params: Any) -> Any:
        if not self._is_async:
            return shaped(api_method, self._ask(self._seq, api_method, params))
        try:
            if self._begin is not None:
                return self._begin(api_method, params)
            return _Done(shaped(api_method, self._ask(self._seq, api_method, params)))
        except ApiError as error:
            return _Failed(error)

    def _effect(self, api_method: str, /, **params: Any) -> Any:
        if self._make is None:
            return self._call(api_method, **params)
        if not self._is_async:
            return self._make(self._seq, api_method, params)
        try:
            return _Done(self._make(self._seq, api_method, params))
        except ApiError as error:
            return _Failed(error)


class ConcurrentApi(Api):
    """The API of an async hook that runs beside others. A call is made when its method is called, as with ``Api``, and
    awaiting it lets the other hooks go on until the answer is there. ``ask`` returns what is awaited."""

    def __init__(self, ask: Callable[[int, str, dict[str, Any]], Any], seq: int,
                 effect: Callable[[int, str, dict[str, Any]], Any] | None = None) -> None:
        super().__init__(ask, seq, True, effect)

    def _call(self, api_method: str, /, **params: Any) -> Any:
        try:
            return self._ask(self._seq, api_method, params)
        except ApiError as error:
            return _Failed(error)


def shaped(api_method: str, value: Any) -> Any:
    """``value``, the answer of ``api_method``, as plugin code gets it."""
    return Fetched(value) if api_method == "fetch" and isinstance(value, dict) else value


def _frozen(value: Any) -> Any:
    """``value`` in types that cannot be changed."""
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


class HookContext:
    """Who calls, for which plugin and hook, and how much time is left."""

    def __init__(self, user_id: str, plugin_id: str, action: str, deadline_ns: int, api: Api,
                 log: logging.Logger, settings: bytes = b"") -> None:
        self.user_id = user_id
        self.plugin_id = plugin_id
        self.action = action
        self.api = api
        self.log = log
        self._deadline_ns = deadline_ns
        self._settings: bytes | Mapping[str, Any] = settings

    @property
    def settings(self) -> Mapping[str, Any]:
        """The values of the settings that the manifest declares, for this call's user: what the operator has set, or
        the defaults. A setting that has neither is not there, and neither is a secret that the gateway puts into
        requests. Nothing in it can be changed."""
        found = self._settings
        if isinstance(found, bytes):
            found = self._settings = _frozen(_decode(found) if found else {})
        return found

    def remaining_ms(self) -> float:
        """Milliseconds until the deadline; negative after it."""
        return (self._deadline_ns - time.monotonic_ns()) / 1e6
