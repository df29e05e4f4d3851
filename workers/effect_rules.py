"""The rules for what a hook asks the platform to do (``renderWidget``, ``emit``). Pure.

An effect takes no round trip: it travels with the hook's answer. The supervisor decides there, by these rules and by
the grants in force. A worker holds the same rules against an effect when it is made, so that the hook learns of a
refusal in place; that is a courtesy, on which nothing depends.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from workers.shape import containers_at_most, deeper_than, too_dear

EFFECTS_MAX = 100
"""Effects of one invocation."""
EFFECTS_BYTES_MAX = 256 * 1024
"""What the effects of one invocation add to its reply, in all."""
EFFECT_BYTES_TRIED_MAX = 2 * EFFECTS_BYTES_MAX
"""Effects of one invocation, refused ones too: decoding and looking through them takes the loop's time."""
DEPTH_MAX = 32
"""Deepest nesting inside one effect; the reply around it may nest 64 deep."""
NAME_CHARACTERS_MAX = 100
CALLS_MAX = 1000
"""API calls of one invocation in all, effects among them."""
REFUSALS_RECORDED = 8
"""Refused calls of one invocation and method that have a record each; how many more there were is one record at the
invocation's end. A record costs the ledger a third of a kilobyte, and a refusal costs a hook nothing."""
IN_PLACE = frozenset(("permission_denied", "component_not_allowed", "invalid_params", "invalid_output", "too_large",
                      "effect_limit", "too_many_calls"))
"""The codes that a worker may refuse an effect with. Whatever else there is to say, only the supervisor knows."""
TRIES_AT_ONCE, TRIES_AT_ONCE_BYTES = 16, 2048
"""The effects of one message (``wire.Effects``), and their bytes if there are several. To look through them takes the
loop two milliseconds at most; then another plugin may have its turn."""

EMIT, RENDER = "emit", "renderWidget"
NAMED_BY = {EMIT: "event", RENDER: "component"}
"""The parameter that names what is emitted or rendered."""
CARRIES = {EMIT: "payload", RENDER: "props"}
"""The parameter that goes to the host as it is."""
_EVENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_COMPONENT = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_decode = msgspec.msgpack.Decoder().decode
_MAPS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
"""The first bytes of a map."""
_FRAME_BYTES = {EMIT: 26, RENDER: 30}
"""What the encoded effect has beside its name and its body: keys, kind, heads."""
TOO_MANY_CALLS = f"one invocation makes at most {CALLS_MAX} API calls"


class EffectRefused(Exception):
    """The effect breaks a rule; ``code`` is one of the API's codes, ``str()`` says which rule."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Tally:
    """The effects of one invocation so far. Both sides count in the same way; the worker, which counts what it has
    refused as well, comes to each bound first."""

    __slots__ = ("bytes", "count", "tried_bytes")

    def __init__(self) -> None:
        self.count = self.bytes = self.tried_bytes = 0

    def tried(self, size: int) -> None:
        """Counts the bytes of an effect before anybody looks at them. Raises EffectRefused."""
        self.tried_bytes += size
        if self.tried_bytes > EFFECT_BYTES_TRIED_MAX:
            raise EffectRefused("effect_limit", f"one invocation tries {EFFECT_BYTES_TRIED_MAX} bytes of effects")

    def room_for(self, size: int) -> None:
        """Raises EffectRefused unless one more effect may be taken."""
        if self.count >= EFFECTS_MAX:
            raise EffectRefused("effect_limit", f"one invocation can have at most {EFFECTS_MAX} effects")
        if self.bytes + size > EFFECTS_BYTES_MAX:
            raise EffectRefused("effect_limit", f"the effects of one invocation can have at most {EFFECTS_BYTES_MAX} "
                                                "bytes")

    def took(self, size: int) -> None:
        """Counts an effect that was taken."""
        self.count += 1
        self.bytes += size


def full_name(method: str, plugin: str, name: Any, components: frozenset[str]) -> str:
    """The event's whole name, or the component's, if ``plugin`` may use it. Raises EffectRefused.

    ``components`` are those that may be rendered; none named: any.
    """
    if type(name) is not str:
        raise EffectRefused("invalid_params", f"{NAMED_BY[method]} is not a string")
    if method == EMIT:
        own = name.removeprefix(f"{plugin}/")
        event = f"{plugin}/{own}"
        if len(event) > NAME_CHARACTERS_MAX or not _EVENT.fullmatch(own):
            raise EffectRefused("invalid_params", "an event is named <plugin>/<name>, 100 characters at most, "
                                                  "its name of letters, digits, '.', '_', ':' and '-'")
        return event
    if len(name) > NAME_CHARACTERS_MAX or not _COMPONENT.fullmatch(name):
        raise EffectRefused("invalid_params", "a component's name must have 1 to 100 letters, digits, '.', '_' and '-'")
    if components and name not in components:
        raise EffectRefused("component_not_allowed", f"the platform does not render {name}")
    return name


def size_of(method: str, name: str, body: bytes) -> int:
    """The bytes that the effect adds to a reply, of a name that ``full_name`` has returned."""
    return _FRAME_BYTES[method] + (len(name) > 31) + len(name) + len(body)


def check_shape(method: str, body: bytes) -> None:
    """Raises EffectRefused for a body that takes too long to look through, nests too deep, or is not a map where one
    belongs. What its values are is another question (``wire.values`` here, ``runtime.values`` in a worker)."""
    field = CARRIES[method]
    if len(body) > 1024 and (fault := too_dear(body)):
        raise EffectRefused("effect_limit", f"{field}: {fault}")
    if method == RENDER and (not body or body[0] not in _MAPS):
        raise EffectRefused("invalid_params", "props must be a map")


def check_depth(body: bytes) -> None:
    """Raises EffectRefused for a body that nests too deep. It may be decoded."""
    levels = DEPTH_MAX - 1
    if len(body) > levels and containers_at_most(body) > levels and deeper_than(_decode(body), levels):
        raise EffectRefused("effect_limit", f"nested deeper than {DEPTH_MAX} levels")


def denied(permission: str) -> str:
    """What an author reads whose plugin lacks ``permission``."""
    return f"the plugin has no {permission}; its manifest must ask for it"
