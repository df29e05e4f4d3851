"""The value rule holds for any value, and what a value may cost is bounded, not only its bytes."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.errors import Code, WireError
from apex_exec.wire import codec, hooks, values

pack = msgspec.msgpack.encode
MANY = 1_000_000


def ruled(value: Any, depth: int = 0) -> bool:
    """The rule in its plainest form."""
    if depth > values.DEPTH_MAX:
        return False
    if isinstance(value, list):
        return all(ruled(child, depth + 1) for child in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and ruled(child, depth + 1) for key, child in value.items())
    if isinstance(value, bool) or value is None or isinstance(value, str | bytes):
        return True
    if isinstance(value, int):
        return abs(value) <= values.INT_MAX
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, datetime)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.integers(-5, 5), st.floats(),
                   st.text(max_size=5), st.binary(max_size=5), st.datetimes(timezones=st.just(UTC)))
VALUES = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 3)), inner, max_size=3)),
    max_leaves=12)


@given(VALUES, st.integers(0, 70))
def test_the_quick_check_says_what_the_plain_rule_says(value: Any, wraps: int) -> None:
    for number in range(wraps):
        value = [value] if number % 2 else {"k": value}
    raw = pack(value)
    if ruled(msgspec.msgpack.decode(raw)):
        assert pack(values.check_value(raw)) == raw
    else:
        with pytest.raises(WireError) as caught:
            values.check_value(raw)
        assert caught.value.code == Code.INVALID_OUTPUT and caught.value.details["path"].startswith("$")
    counted = sum(1 for _ in every(msgspec.msgpack.decode(raw)))
    assert values.has_few_values(raw, counted) and not values.has_few_values(raw, counted - 1)
    assert values.containers(raw) <= values.containers_at_most(raw)
    assert values.deeper_than(msgspec.msgpack.decode(raw), 64) == (plain_depth(msgspec.msgpack.decode(raw)) > 64)


def every(value: Any) -> Iterator[Any]:
    """The value, and all that stand in it, keys too."""
    yield value
    if isinstance(value, dict):
        for pair in value.items():
            yield from every(pair[0])
            yield from every(pair[1])
    elif isinstance(value, list):
        for child in value:
            yield from every(child)


def plain_depth(value: Any) -> int:
    """In how many lists and maps the innermost value stands."""
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + max(map(plain_depth, children)) if children else 0


@given(VALUES)
def test_containers_are_counted_exactly_whatever_stands_beside_them(value: Any) -> None:
    def count(one: Any) -> int:
        children = list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
        return int(isinstance(one, list | dict)) + sum(map(count, children))

    raw = pack([value, "\u0400" * 300, b"\x91" * 70_000, "x" * 70_000])
    assert values.containers(raw) == 1 + count(msgspec.msgpack.decode(pack(value)))


def many(body: bytes, count: int = MANY) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + body * count


NESTED = b"".join(b"\x81" + pack("k" * 64) for _ in range(58))
COSTLY = {
    "empty lists": many(b"\x90"), "empty maps": many(b"\x80"),
    "maps of one, deep": NESTED + many(b"\x81\xa1k\x01", 250_000), "chains": many(b"\x91" * 45 + b"\xc0", 20_000),
}


@pytest.mark.parametrize("shape", COSTLY)
def test_a_result_of_too_many_lists_is_refused_before_it_is_decoded(shape: str) -> None:
    result = b"\x82" + pack("result") + COSTLY[shape] + pack("metadata") + b"\x80"
    begun = time.process_time()
    with pytest.raises(WireError) as caught:
        hooks.check_result("onActionExecute", msgspec.Raw(result))
    assert caught.value.code == Code.INVALID_OUTPUT and "65536 lists and maps" in caught.value.message
    assert time.process_time() - begun < 0.4  # decoded, each took the loop for 0.5 to 4.5 s
    request = {"type": "invoke", "id": 7, "plugin": "a-b-c", "action": "onDataFetch", "userId": "u",
               "payload": msgspec.Raw(b"\x81\xa1x" + COSTLY[shape])}
    with pytest.raises(WireError) as caught:
        codec.decode_request(pack(request), 2 << 20)
    assert caught.value.code == Code.PAYLOAD_TOO_LARGE


TOO_MANY = {
    "nils": many(b"\xc0"), "integers of two bytes": many(b"\xcc\xc8", 500_000), "one more than may be":
    many(b"\x01", values.MEMBERS_MAX), "deep integers": NESTED[: 20 * 67] + many(b"\x01", 900_000),
    "nils, and bytes among them": many(b"\xc0")[:-1] + b"\xc4\x00",
    "chains of lists, and nils": b"\x92" + many(b"\x91" * 60 + b"\xc0", 1000) + many(b"\xc0", 900_000),
    "rows": pack([{"id": n, "name": f"row {n}", "v": [n, n + 1], "q": 1.5} for n in range(22_000)]),
}


@pytest.mark.parametrize("shape", TOO_MANY)
def test_a_result_of_too_many_values_is_refused_before_they_are_walked_through(shape: str) -> None:
    with pytest.raises(WireError) as caught:
        values.check_value(msgspec.Raw(TOO_MANY[shape]))
    assert caught.value.code == Code.INVALID_OUTPUT
    assert caught.value.message == f"more than {values.MEMBERS_MAX} values"


@pytest.mark.parametrize("shape", [
    pack([{"id": n, "name": f"row {n}" * 9, "v": [n, n + 1], "q": 1.5} for n in range(9_000)]),
    pack(["ГдеЖе" * 20] * 5_000), pack(bytes(range(0x80, 0xA0)) * 32_000),
    many(b"\x01", 65_000)[:-1] + b"\xc5\xff\xff" + bytes(65_535), NESTED[: 20 * 67] + many(b"\xcc\xff", 64_000),
    many(b"\xcc\xff", values.MEMBERS_MAX - 1),
], ids=["rows", "Cyrillic text", "bytes that look like lists", "many integers and one bytes", "deep integers",
        "as many as may be"])
def test_large_ordinary_results_pass_and_the_collector_is_back_at_work(shape: bytes) -> None:
    value = values.check_value(msgspec.Raw(shape))
    assert pack(value) == shape or isinstance(value, list | dict)
    assert gc.isenabled()
    with pytest.raises(WireError):
        values.check_value(b"\x92" + shape[:-1])
    assert gc.isenabled()
