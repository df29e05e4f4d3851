"""The effects of the calls that run, until they are sent with an answer or an API call.

If it can be known here that an effect is not allowed, it is refused here, by the rules that the supervisor also applies
(``effect_rules``). A refused effect is sent as well, and the supervisor counts and records it. The supervisor trusts
nothing of this.
"""

from __future__ import annotations

from typing import Any

import msgspec

from workers import contract, wire
from workers.effect_rules import (
    CALLS_MAX,
    CARRIES,
    NAMED_BY,
    REFUSALS_RECORDED,
    TOO_MANY_CALLS,
    TRIES_AT_ONCE,
    TRIES_AT_ONCE_BYTES,
    EffectRefused,
    Tally,
    check_depth,
    check_shape,
    denied,
    full_name,
    size_of,
)
from workers.runtime.values import FORBIDDEN_KEY, NotAValue, check_value, encoded
from workers.shape import decode_quick
from workers.zmtp import encode as frame

_encode = msgspec.msgpack.Encoder().encode
_FORBIDDEN = FORBIDDEN_KEY.encode()
_EMPTY: dict[str, Any] = {"props": {}, "payload": None}
"""What an effect carries if nothing is given."""
Try = tuple[str, str, msgspec.Raw] | tuple[str, str, msgspec.Raw, str, int]
"""The fields of a ``wire.Effect``."""


class _Tried:
    """The effects that one call has tried. ``tries`` were not sent yet; ``more`` counts refused ones that get no record
    of their own."""

    __slots__ = ("calls", "more", "refusals", "tally", "tries")

    def __init__(self) -> None:
        self.calls = 0
        self.tally = Tally()
        self.tries: list[Try] = []
        self.refusals: dict[str, int] = {}
        self.more: dict[tuple[str, str], int] = {}

    def refuse(self, method: str, code: str) -> None:
        """Notes an effect that was refused here."""
        count = self.refusals[method] = self.refusals.get(method, 0) + 1
        if count <= REFUSALS_RECORDED:
            self.tries.append((method, "", wire.NIL, code, 1))
        else:
            self.more[method, code] = self.more.get((method, code), 0) + 1


class Effects:
    """The effects of every call of one worker. ``wire.Load`` brings the plugin, its permissions and the components."""

    __slots__ = ("_components", "_permissions", "_plugin", "open")

    def __init__(self) -> None:
        self._plugin = ""
        self._permissions: frozenset[str] = frozenset()
        self._components: frozenset[str] = frozenset()
        self.open: dict[int, _Tried] = {}
        """The calls that have tried an effect or made an API call, by number."""

    def load(self, message: wire.Load) -> None:
        """From now on the effects are this plugin's."""
        self._plugin = message.plugin
        self._permissions = frozenset(message.permissions)
        self._components = frozenset(message.components)

    def grant(self, message: wire.Grants) -> None:
        """The plugin has these permissions from now on."""
        self._permissions = frozenset(message.permissions)

    # ------------------------------------------------------------------ while a hook runs
    def make(self, seq: int, method: str, params: Any) -> None:
        """The hook that runs as ``seq`` makes an effect. Raises EffectRefused."""
        one = self._of(seq)
        one.calls += 1
        try:
            one.tries.append(self._checked(one, method, params))
        except EffectRefused as refused:
            one.refuse(method, refused.code)
            raise

    def refused(self, seq: int, method: str, code: str) -> None:
        """Notes an effect that was refused before it came here, for example because of a value that cannot be sent."""
        one = self._of(seq)
        one.calls += 1
        one.refuse(method, code)

    def called(self, seq: int) -> bytes:
        """The hook makes an API call. Returns the effects so far, which must be written before it."""
        one = self._of(seq)
        one.calls += 1
        return self._taken(seq, one) if one.tries else b""

    def ended(self, seq: int) -> bytes:
        """The hook has ended. Returns its last effects, which must be written before its answer."""
        one = self.open.pop(seq, None)
        if one is None:
            return b""
        for (method, code), count in one.more.items():
            one.tries.append((method, "", wire.NIL, code, count))
        return self._taken(seq, one) if one.tries else b""

    def _of(self, seq: int) -> _Tried:
        one = self.open.get(seq)
        if one is None:
            one = self.open[seq] = _Tried()
        return one

    def _checked(self, one: _Tried, method: str, params: Any) -> Try:
        if one.calls > CALLS_MAX:
            raise EffectRefused("too_many_calls", TOO_MANY_CALLS)
        permission = contract.PERMISSIONS[method]
        if permission not in self._permissions:
            raise EffectRefused("permission_denied", denied(permission))
        if type(params) is not dict:
            raise EffectRefused("invalid_params", "the parameters must be a map")
        field = CARRIES[method]
        body = _encoded(params.get(field, _EMPTY[field]), f"$.{field}")
        if len(body) > wire.API_PARAMS_BYTES_MAX:
            raise EffectRefused("too_large", f"a call's parameters have at most {wire.API_PARAMS_BYTES_MAX} bytes")
        tally = one.tally
        tally.tried(len(body))
        name = params.get(NAMED_BY[method])
        full = full_name(method, self._plugin, name, self._components)
        size = size_of(method, full, body)
        tally.room_for(size)
        check_shape(method, body)
        check_depth(body)
        tally.took(size)
        return method, full, msgspec.Raw(body)

    @staticmethod
    def _taken(seq: int, one: _Tried) -> bytes:
        """Frames with the tries of one call, in order, which counts them as sent."""
        tries, one.tries = one.tries, []
        if len(tries) <= TRIES_AT_ONCE and sum(map(_size, tries)) <= TRIES_AT_ONCE_BYTES:
            return frame(_encode(("effects", seq, tries)))
        frames, part, size = [], [tries[0]], _size(tries[0])
        for one_try in tries[1:]:
            more = _size(one_try)
            if len(part) == TRIES_AT_ONCE or size + more > TRIES_AT_ONCE_BYTES:
                frames.append(frame(_encode(("effects", seq, part))))
                part, size = [], 0
            part.append(one_try)
            size += more
        frames.append(frame(_encode(("effects", seq, part))))
        return b"".join(frames)


def _size(one: Try) -> int:
    return len(bytes(one[2]))


def _encoded(value: Any, path: str) -> bytes:
    """``value``, encoded. Raises EffectRefused if the protocol cannot carry it."""
    try:
        body = encoded(value, path)
        if _FORBIDDEN in body or not _is_quick(body):
            check_value(value, path)
    except NotAValue as error:
        raise EffectRefused("invalid_output", f"{error.path[:200]}: {error}") from None
    except RecursionError:
        raise EffectRefused("invalid_params", "nested too deeply") from None
    return body


def _is_quick(body: bytes) -> bool:
    """Whether a decoder in C finds every value to be in range. If not, ``check_value`` has to look for the reason."""
    try:
        decode_quick(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
