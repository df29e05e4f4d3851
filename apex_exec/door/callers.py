"""Who calls: what a token allows, how often, and in whose name. Pure: the clock is an argument.

A caller acts as its own user and as nobody else unless its token says ``act-as``.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from apex_exec.common.names import UUID
from apex_exec.door.answers import Problem
from apex_exec.errors import Code

INVOKE, DISPATCH, PLUGINS, AUDIT = "invoke", "dispatch", "plugins", "audit:read"
ACT_AS = "act-as"
CALLERS_MAX = 100_000
"""Callers whose rate is counted; above it the one that was quiet longest is forgotten."""
BURST_SECONDS = 10
"""A caller may use up the requests of this time at once."""
REQUEST_SECONDS = 0.002
"""The door's CPU time that one request pays for. A body of a megabyte takes 80 ms to read and as long to write, so it
counts as many requests: otherwise ten of them a second, of one caller, would be all that the door can do."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """One caller. ``key`` tells it from all others; ``user`` is the user it calls as ("": only as those that it names).

    Empty ``plugins`` or ``hooks`` mean all.
    """

    key: str
    name: str
    user: str
    act_as: bool
    plugins: frozenset[str]
    hooks: frozenset[str]
    scopes: frozenset[str]
    requests_per_minute: int

    def need(self, scope: str) -> None:
        """Raises Problem unless the caller has ``scope``."""
        if scope not in self.scopes:
            raise Problem(Code.FORBIDDEN, f"this token does not have the scope {scope}, which this request needs",
                          reason="scope_missing", details={"needed": scope}, headers={
                              "WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'})

    def acts_as(self, named: str | None) -> str:
        """The user of a request that names ``named``. Raises Problem if that is somebody else."""
        if named is None:
            if not self.user:
                raise Problem(Code.INVALID_INPUT, "this token belongs to no user: name one as userId",
                              details={"path": "$.userId"})
            return self.user
        user = named.lower()
        if UUID.fullmatch(user) is None:
            raise Problem(Code.INVALID_INPUT, "userId must be a UUID, 8-4-4-4-12 hexadecimal digits",
                          details={"path": "$.userId"})
        if user != self.user and not self.act_as:
            raise Problem(Code.FORBIDDEN, "this token may act as its own user only; leave userId out",
                          reason="another_user", details={"path": "$.userId"})
        return user

    def check_plugin(self, plugin: str) -> None:
        """Raises Problem for a plugin that the token does not name."""
        if self.plugins and plugin not in self.plugins:
            raise Problem(Code.FORBIDDEN, "this token may not call this plugin", reason="plugin_not_in_token")

    def check_hook(self, hook: str) -> None:
        """Raises Problem for a hook that the token does not name."""
        if self.hooks and hook not in self.hooks:
            raise Problem(Code.FORBIDDEN, "this token may not call this hook", reason="hook_not_in_token")


class Rates:
    """How often each caller has called: a bucket for each, that fills at its own rate."""

    def __init__(self) -> None:
        self._empty_until: OrderedDict[str, float] = OrderedDict()
        """By caller: when its bucket would be full again (GCRA)."""

    def take(self, caller: Caller, now: float) -> float:
        """Takes one request. Returns 0, or after how many seconds there is room for it."""
        seconds_each = 60 / caller.requests_per_minute
        full_at = max(self._empty_until.pop(caller.key, now), now)
        wait = full_at + seconds_each - now - max(BURST_SECONDS, seconds_each)
        self._empty_until[caller.key] = full_at if wait > 0 else full_at + seconds_each
        if len(self._empty_until) > CALLERS_MAX:
            self._empty_until.popitem(last=False)
        return max(0.0, wait)

    def spent(self, caller: Caller, seconds: float) -> None:
        """A request of this caller has taken ``seconds`` of CPU time: what is beyond REQUEST_SECONDS is paid for as
        further requests are."""
        full_at = self._empty_until.get(caller.key)
        if full_at is not None and seconds > REQUEST_SECONDS:
            self._empty_until[caller.key] = full_at + (seconds / REQUEST_SECONDS - 1) * 60 / caller.requests_per_minute


class Shares:
    """Places that all callers share. Nobody holds more of them than are left: one caller may take half, the next one
    half of the rest, so that those who come with little always find something."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._held: Counter[str] = Counter()

    def take(self, key: str) -> bool:
        """Takes a place for the caller ``key``. Returns False if there is none for it."""
        if not self._free or self._held[key] >= self._free:
            return False
        self._free -= 1
        self._held[key] += 1
        return True

    def give_back(self, key: str) -> None:
        """The caller has one place less."""
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]


class Tokens:
    """The tokens that the daemon has registered, by the SHA-256 of each."""

    def __init__(self) -> None:
        self.revision = ""
        self._by_digest: dict[str, tuple[Caller, int]] = {}

    def replace(self, revision: str, rows: Iterable[dict[str, Any]]) -> None:
        """Takes over the daemon's list in place of the one before."""
        made: dict[str, tuple[Caller, int]] = {}
        for row in rows:
            made[row["digest"]] = Caller(
                key=f"token:{row['id']}", name=f"{row['name']} (token {row['id']})", user=row["user"],
                act_as=row["actAs"], plugins=frozenset(row["plugins"]), hooks=frozenset(row["hooks"]),
                scopes=frozenset(row["scopes"]), requests_per_minute=row["requestsPerMinute"]), row["expiresNs"]
        self._by_digest, self.revision = made, revision

    def find(self, secret: str, now_ns: int) -> Caller | None:
        """The caller with this token, None if there is none or it has expired."""
        caller, expires_ns = self._by_digest.get(digest(secret), (None, 0))
        return caller if expires_ns > now_ns else None


def digest(secret: str) -> str:
    """What is kept of a token. The token has 256 random bits: nothing slower is needed."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
