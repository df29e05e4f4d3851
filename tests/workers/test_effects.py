"""What a worker says of an effect in place is what the supervisor says of it later, and what it tells has a bound."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.core.effects import EFFECTS_BYTES_MAX, Effects
from workers import wire
from workers.effect_rules import (
    CALLS_MAX,
    EFFECTS_MAX,
    IN_PLACE,
    REFUSALS_RECORDED,
    TRIES_AT_ONCE,
    TRIES_AT_ONCE_BYTES,
    EffectRefused,
)
from workers.runtime import effects as made_here
from workers.zmtp import Zmtp

ALL = ["events:emit", "ui:render"]
COMPONENTS = frozenset({"Chart", "Table"})
_decode = msgspec.msgpack.Decoder(wire.FromWorker).decode

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4)
    | st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.just("__proto__"), inner,
                                                                max_size=4), max_leaves=12)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BODIES = NESTED | st.sampled_from([
    [1] * 1200, [1] * 70_000, [[]] * 1025, [[]] * 4097, [[b""]] * 1025, [{}] * 2000, "x" * 5000, "x" * 100_000,
    "x" * EFFECTS_BYTES_MAX, {"a": [[]] * 1025}, {"a": "x" * 66_000, "b": [1] * 996}]) | st.integers(28, 36).map(_deep)
NAMES = st.sampled_from(["a", "shop/a", "other/a", "", "a b", "Chart", "Pie", "é", "x" * 95, "x" * 96, "x" * 101,
                         "a\n"])


def runtime(permissions: list[str] | None = None) -> made_here.Effects:
    """The worker's half, of the plugin "shop"."""
    effects = made_here.Effects()
    effects.load(wire.Load("shop", "1.0.0", "p.py", {}, {}, 0, permissions=ALL if permissions is None else permissions,
                           components=sorted(COMPONENTS)))
    return effects


def told(frames: bytes) -> list[wire.Effects]:
    """The messages, as the supervisor reads them."""
    codec = Zmtp(frame_bytes_max=wire.WORKER_FRAME_BYTES_MAX)
    codec.feed(Zmtp(frame_bytes_max=0).greeting())
    return [_decode(body) for body in codec.feed(frames)]


def word_of(make: Any, *arguments: Any) -> str:
    try:
        make(*arguments)
    except EffectRefused as refused:
        return refused.code
    return ""


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["emit", "renderWidget"]), NAMES, BODIES), min_size=1, max_size=6))
def test_both_sides_say_the_same_of_every_effect(tries: list[tuple[str, str, Any]]) -> None:
    here, there = runtime(), Effects()
    codes = [word_of(here.make, 0, method, {"event": name, "payload": body} if method == "emit"
                     else {"component": name, "props": body}) for method, name, body in tries]
    found = [effect for message in told(here.ended(0)) for effect in message.tries]
    assert [effect.code for effect in found] == codes and set(codes) <= IN_PLACE | {""}
    for effect in found:
        if not effect.code:
            there.tally.tried(len(effect.body))
            there.take("shop", effect.method, effect.name, effect.body, COMPONENTS)
    assert there.tally.count == codes.count("") == len(there.items)
    assert there.tally.bytes == sum(len(msgspec.msgpack.encode(item)) for item in there.items)


def test_what_the_supervisor_refuses_is_refused_in_place() -> None:
    """The other direction: nothing that goes through here is refused there, and nothing that is refused here is taken
    there."""
    for method, name, body, code in [
            ("emit", "a b", None, "invalid_params"), ("emit", "a", float("nan"), "invalid_output"),
            ("emit", "a", _deep(32), "effect_limit"), ("emit", "a", [[b""]] * 1025, "effect_limit"),
            ("renderWidget", "Pie", {}, "component_not_allowed"), ("renderWidget", "Chart", [], "invalid_params")]:
        here, there = runtime(), Effects()
        params = {"event": name, "payload": body} if method == "emit" else {"component": name, "props": body}
        raw = msgspec.Raw(msgspec.msgpack.encode(body))
        assert word_of(here.make, 0, method, params) == word_of(
            there.take, "shop", method, name, raw, COMPONENTS) == code


def test_numbers_and_bytes_end_at_the_same_place() -> None:
    here = runtime()
    codes = [word_of(here.make, 0, "emit", {"event": "x"}) for _ in range(CALLS_MAX + 5)]
    assert codes == [""] * EFFECTS_MAX + ["effect_limit"] * (CALLS_MAX - EFFECTS_MAX) + ["too_many_calls"] * 5
    found = [effect for message in told(here.ended(0)) for effect in message.tries]
    assert sum(effect.count for effect in found) == CALLS_MAX + 5
    assert len(found) == EFFECTS_MAX + REFUSALS_RECORDED + 2, "beyond the first, refusals are a number by code"
    assert not here.open


def test_what_is_told_at_once_is_bounded_whatever_was_made() -> None:
    here = runtime()
    for number in range(90):
        here.make(0, "emit", {"event": "x", "payload": "y" * (number * 37 % 3000)})
    messages = told(here.ended(0))
    assert sum(len(message.tries) for message in messages) == 90
    for message in messages:
        size = sum(len(effect.body) for effect in message.tries)
        assert len(message.tries) <= TRIES_AT_ONCE and (len(message.tries) == 1 or size <= TRIES_AT_ONCE_BYTES)


def test_an_api_call_takes_along_what_was_made_before_it_and_nothing_is_told_twice() -> None:
    here = runtime()
    here.make(3, "emit", {"event": "a"})
    (message,) = told(here.called(3))
    assert (message.seq, [effect.name for effect in message.tries]) == (3, ["shop/a"])
    assert here.called(3) == b""
    here.make(3, "emit", {"event": "b"})
    (message,) = told(here.ended(3))
    assert [effect.name for effect in message.tries] == ["shop/b"]
    assert here.ended(3) == b"" and not here.open


def test_permissions_are_those_of_the_latest_word() -> None:
    here = runtime([])
    assert word_of(here.make, 0, "emit", {"event": "a"}) == "permission_denied"
    here.grant(wire.Grants(["events:emit"]))
    assert word_of(here.make, 0, "emit", {"event": "a"}) == ""
    assert word_of(here.make, 0, "renderWidget", {"component": "Chart"}) == "permission_denied"


@pytest.mark.parametrize("frames", [
    ["effects", 0, []], ["effects", 0, [["emit", "a", None]] * (TRIES_AT_ONCE + 1)],
    ["effects", -1, [["emit", "a", 1]]],
    ["effects", 0, [["emit", "x" * 101, 1]]], ["effects", 0, [["emit", "a"]]], ["effects", 0, [["emit", 1, 1]]],
    ["effects", 0, [["emit", "", None, "permission_denied", 0]]], ["effects", 0, [["emit", "", None, "x", 2**40]]],
    ["effects", 0, [["emit", "", None, "x", -1]]], ["effects", 0, {"emit": 1}], ["effects", "0", [["emit", "a", 1]]],
    ["effects", 0, [["emit", "a", None, 5]]], ["effects", 0, ["emit"]], ["effects", 0],
])
def test_a_message_out_of_its_bounds_is_none(frames: list[Any]) -> None:
    with pytest.raises(msgspec.DecodeError):
        _decode(msgspec.msgpack.encode(frames))
