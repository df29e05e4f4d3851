"""What a hook asks the platform to do (``renderWidget``, ``emit``), checked and collected until the hook's end. Pure.

Effects are sent with the reply and are gone where the hook fails. Everything about them has a bound: what one
invocation may add to its reply is EFFECTS_BYTES_MAX in all.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from apex_exec.catalogue.methods import Emit, RenderWidget
from apex_exec.errors import WireError
from apex_exec.wire.values import TooDear, check_in_loop, containers_at_most, deeper_than

EFFECTS_MAX = 100
EFFECTS_BYTES_MAX = 256 * 1024
DEPTH_MAX = 32
"""Deepest nesting inside one effect; the reply around it may nest 64 deep."""
NAME_CHARACTERS_MAX = 100
_EVENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_COMPONENT = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")

_encode = msgspec.msgpack.Encoder().encode


class EffectRefused(Exception):
    """The effect breaks a rule; ``code`` is one of the API's codes, ``str()`` says which rule."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Effects:
    """The effects of one invocation, in the order they were asked for."""

    __slots__ = ("_bytes", "items")

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, plugin: str, request: RenderWidget | Emit, components: frozenset[str]) -> None:
        """Takes one effect of ``plugin``; ``components`` are those that may be rendered, none named: any.

        Raises EffectRefused; what was collected before stays.
        """
        effect = _render(request, components) if isinstance(request, RenderWidget) else _emit(plugin, request)
        if len(self.items) >= EFFECTS_MAX:
            raise EffectRefused("effect_limit", f"one invocation may have {EFFECTS_MAX} effects")
        size = len(_encode(effect))
        if self._bytes + size > EFFECTS_BYTES_MAX:
            raise EffectRefused("effect_limit", f"the effects of one invocation may have {EFFECTS_BYTES_MAX} bytes")
        _check(request)
        self._bytes += size
        self.items.append(effect)


def _check(request: RenderWidget | Emit) -> None:
    """Holds what the plugin made to the value rule, decoded once."""
    name, raw = ("props", request.props) if isinstance(request, RenderWidget) else ("payload", request.payload)
    body = bytes(raw)
    try:
        value = check_in_loop(body)
    except TooDear as dear:
        raise EffectRefused("effect_limit", f"{name}: {dear}") from None
    except WireError as error:
        raise EffectRefused("invalid_output", error.message.replace("$", f"$.{name}", 1)) from None
    if name == "props" and type(value) is not dict:
        raise EffectRefused("invalid_params", "props are a map")
    if containers_at_most(body) > DEPTH_MAX - 1 and deeper_than(value, DEPTH_MAX - 1):
        raise EffectRefused("effect_limit", f"nested deeper than {DEPTH_MAX} levels")


def _render(request: RenderWidget, components: frozenset[str]) -> dict[str, Any]:
    component = request.component
    if len(component) > NAME_CHARACTERS_MAX or not _COMPONENT.fullmatch(component):
        raise EffectRefused("invalid_params", "a component is 1-100 of letters, digits, '.', '_' and '-'")
    if components and component not in components:
        raise EffectRefused("component_not_allowed", f"the platform does not render {component}")
    return {"kind": "render", "component": component, "props": request.props}


def _emit(plugin: str, request: Emit) -> dict[str, Any]:
    name = request.event.removeprefix(f"{plugin}/")
    event = f"{plugin}/{name}"
    if len(event) > NAME_CHARACTERS_MAX or not _EVENT.fullmatch(name):
        raise EffectRefused("invalid_params", "an event is named <plugin>/<name>, 100 characters at most, "
                                              "its name of letters, digits, '.', '_', ':' and '-'")
    return {"kind": "emit", "event": event, "payload": request.payload}
