"""What a hook asks the platform to do (``renderWidget``, ``emit``), checked and collected until the hook's end. Pure.

Effects are sent with the reply and are gone where the hook fails. Everything about them has a bound: what one
invocation may add to its reply is EFFECTS_BYTES_MAX in all. The rules are in ``workers.effect_rules``, which a worker
holds against an effect as well; what is said here decides.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from apex_exec.catalogue.methods import Emit, RenderWidget
from apex_exec.errors import WireError
from apex_exec.wire.values import check_value
from workers.effect_rules import (
    CARRIES,
    DEPTH_MAX,
    EFFECTS_BYTES_MAX,
    EFFECTS_MAX,
    EMIT,
    RENDER,
    EffectRefused,
    Tally,
    check_shape,
    full_name,
    size_of,
)
from workers.shape import containers_at_most, deeper_than

__all__ = ["EFFECTS_BYTES_MAX", "EFFECTS_MAX", "EffectRefused", "Effects"]


class Effects:
    """The effects of one invocation, in the order they were asked for."""

    __slots__ = ("items", "tally")

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.tally = Tally()

    def add(self, plugin: str, request: RenderWidget | Emit, components: frozenset[str]) -> None:
        """Takes one effect that came as an API call. See ``take``."""
        if isinstance(request, RenderWidget):
            self.take(plugin, RENDER, request.component, request.props, components)
        else:
            self.take(plugin, EMIT, request.event, request.payload, components)

    def take(self, plugin: str, method: str, name: str, raw: Raw, components: frozenset[str]) -> None:
        """Takes one effect of ``plugin``; ``components`` are those that may be rendered, none named: any. ``raw`` is
        what goes to the host as it is.

        Raises EffectRefused; what was collected before stays.
        """
        full = full_name(method, plugin, name, components)
        body = bytes(raw)
        size = size_of(method, full, body)
        tally = self.tally
        tally.room_for(size)
        check_shape(method, body)
        _check(method, body)
        tally.took(size)
        self.items.append({"kind": "emit", "event": full, "payload": raw} if method == EMIT
                          else {"kind": "render", "component": full, "props": raw})


def _check(method: str, body: bytes) -> None:
    """Holds what the plugin made to the value rule, decoded once. ``check_shape`` has bounded what that takes."""
    try:
        value = check_value(body)
    except WireError as error:
        raise EffectRefused("invalid_output", error.message.replace("$", f"$.{CARRIES[method]}", 1)) from None
    if len(body) >= DEPTH_MAX and containers_at_most(body) > DEPTH_MAX - 1 and deeper_than(value, DEPTH_MAX - 1):
        raise EffectRefused("effect_limit", f"nested deeper than {DEPTH_MAX} levels")
