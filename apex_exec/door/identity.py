"""Who sends a request: its bearer token, looked up in the daemon's list or checked as a JSON Web Token."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp.web_request import BaseRequest

from apex_exec.common.listening import forwarded_for, is_loopback
from apex_exec.common.tries import Tries
from apex_exec.config import DoorSection
from apex_exec.door import answers
from apex_exec.door.answers import Problem
from apex_exec.door.callers import Caller, Rates
from apex_exec.door.daemon_link import DaemonLink
from apex_exec.door.jwt_callers import SET_BYTES_MAX, JwtCallers, Keys, NoKey, Wrong
from apex_exec.door.place import Place
from apex_exec.errors import Code, ConfigError

WRONG_PER_MINUTE = 120.0
"""Requests of one address without a right token that are answered 401; above it they are answered 429, unread. A right
token always counts."""
KEYS_SECONDS = 300.0
"""How often the key set is read again."""
KEYS_AGAIN_SECONDS = 10.0
"""How long after a look a token with an unknown key, or a set that could not be had, is worth another one."""
FETCH_SECONDS = 5.0
log = logging.getLogger("apex_exec.door")


class Identity:
    """Make it in the running loop. Raises ConfigError if the configuration of tokens is not whole."""

    def __init__(self, section: DoorSection, place: Place, daemon: DaemonLink) -> None:
        self._section = section
        self._place = place
        self._daemon = daemon
        self._keys = Keys()
        self._jwt = JwtCallers(section, self._keys)
        self._is_url = "://" in section.jwt_jwks
        self._looked = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._wrong = Tries(WRONG_PER_MINUTE)
        self._rates = Rates()
        if self._is_url:
            _check_url(section.jwt_jwks)
        elif self._jwt.needs_keys:
            self._read_file(fatal=True)

    async def of(self, request: BaseRequest) -> Caller:
        """The caller of a request, whose rate has room for it. Raises Problem."""
        said = request.headers.getall("Authorization", [])
        scheme, _, token = said[0].partition(" ") if len(said) == 1 else ("", "", "")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise self._unknown(request, "the request has no token; send the header Authorization: Bearer TOKEN", "")
        caller = await (self._by_jwt(request, token) if self._jwt.is_on and token.count(".") == 2 else
                        self._by_token(request, token))
        if wait := self._rates.take(caller, time.monotonic()):
            raise answers.busy("this caller has reached its limit of requests; wait as Retry-After says",
                               "too_many_requests", wait, 429)
        return caller

    def spent(self, caller: Caller, seconds: float) -> None:
        """A request of ``caller`` has taken this much of the door's CPU time."""
        self._rates.spent(caller, seconds)

    def address(self, request: BaseRequest) -> str:
        """Who asks: the peer, or by the proxy's word who asked that."""
        if self._place.proxy:
            return forwarded_for(request.headers.getall("X-Forwarded-For", []))
        return request.remote or "?"

    async def _by_token(self, request: BaseRequest, token: str) -> Caller:
        caller = await self._daemon.token(token)
        if caller is None:
            raise self._unknown(request, "this token is unknown, was revoked or has expired; ask the operator for "
                                         "another", "invalid_token")
        return caller

    async def _by_jwt(self, request: BaseRequest, token: str) -> Caller:
        if self._jwt.needs_keys and time.monotonic() - self._looked > KEYS_SECONDS:
            await self._look()
        try:
            try:
                return self._jwt.find(token, time.time())
            except NoKey:
                if time.monotonic() - self._looked > KEYS_AGAIN_SECONDS:
                    await self._look()
                return self._jwt.find(token, time.time())
        except NoKey as error:
            if not len(self._keys):
                raise Problem(Code.SHUTTING_DOWN, "the key set for checking tokens cannot be fetched at the moment; "
                                                  "try again in ten seconds",
                              reason="keys_unknown", retryable=True, headers={"Retry-After": "10"}) from None
            raise self._unknown(request, str(error), "invalid_token") from None
        except Wrong as error:
            raise self._unknown(request, str(error), "invalid_token") from None

    def _unknown(self, request: BaseRequest, why: str, error: str) -> Problem:
        if wait := self._wrong.wrong(self.address(request), time.monotonic()):
            return answers.busy("too many requests without a right token from this address", "too_many_wrong", wait,
                                429)
        challenge = f'Bearer error="{error}"' if error else "Bearer"
        return Problem(Code.FORBIDDEN, why, status=401, reason="unauthenticated",
                       headers={"WWW-Authenticate": challenge})

    # ------------------------------------------------------------------ the key set
    async def _look(self) -> None:
        """Reads the key set again; one look at a time, and those who need it wait. The last good set stays."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._fetch() if self._is_url else self._file())
        await asyncio.shield(self._looking)

    async def _file(self) -> None:
        self._read_file(fatal=False)

    def _read_file(self, *, fatal: bool) -> None:
        try:
            path = Path(self._section.jwt_jwks)
            if path.stat().st_size > SET_BYTES_MAX:
                raise ValueError(f"the key set has more than {SET_BYTES_MAX} bytes")
            self._take(path.read_bytes())
        except (OSError, ValueError) as error:
            if fatal:
                raise ConfigError(f"door.jwt_jwks: {self._section.jwt_jwks}: "
                                  f"{getattr(error, 'strerror', None) or error}") from None
            log.error("the key set could not be read again, so the last one stays in use: %s", error)
        self._looked = time.monotonic()

    async def _fetch(self) -> None:
        try:
            timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False, auto_decompress=False) as session, \
                    session.get(self._section.jwt_jwks, allow_redirects=False,
                                headers={"Accept": "application/json", "Accept-Encoding": "identity"}) as reply:
                if reply.status != 200:
                    raise ValueError(f"the server answered with the status {reply.status}")
                text = bytearray()
                async for chunk in reply.content.iter_any():
                    text += chunk
                    if len(text) > SET_BYTES_MAX:
                        raise ValueError(f"the key set has more than {SET_BYTES_MAX} bytes")
            self._take(bytes(text))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.error("the key set could not be fetched, %s: %s", "the last one stays" if len(self._keys) else
                      "no token can be checked", str(error)[:200] or type(error).__name__)
        self._looked = time.monotonic()

    def _take(self, text: bytes) -> None:
        self._keys.replace(text)
        self._jwt.forget()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
        raise ConfigError(f"door.jwt_jwks: {url[:200]!a}: name a file, or a URL with https: anybody who can change "
                          "the key set in transit can act as any user")
