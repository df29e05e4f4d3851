"""The value rule holds for any value, and what a value may cost is bounded, not only its bytes."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.catalogue import methods as api
from apex_exec.core.effects import EffectRefused, Effects
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.daemon.hosts.host_methods import HostMethods
from apex_exec.errors import Code, WireError
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.router import Call, _decoded
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


@given(VALUES, st.integers(1, 80))
def test_what_opens_containers_is_counted_but_not_in_long_texts_that_stand_in_front(value: Any, texts: int) -> None:
    """Each byte of such a text could open a list or a map if it stood elsewhere."""
    raw = pack([*["\u00c0\u00dc" * 500] * texts, value])
    assert len(raw) > values.SHORT_BYTES or texts < 2
    most, counted = values.containers_at_most(raw), values.containers(raw)
    assert counted <= most
    if texts < values.STEPPED_OVER - 2 and len(raw) > values.SHORT_BYTES:
        assert most - counted <= len(pack(value)), "a text was looked at"


def list_keys(count: int) -> bytes:
    """A map of that many lists of two numbers, all of one hash: Python mixes numbers into a tuple's hash in steps that
    can be undone, without a secret."""
    whole, rotated = 2**64, 33

    def turn(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) % whole

    first, second, begin = 11400714785074694791, 14029467366897019727, 2870177450012600261
    wanted = turn((turn((begin + second) % whole, 31) * first + 12345 * second) % whole, 31)
    found: list[bytes] = []
    number = 1
    while len(found) < count:
        mixed = turn((begin + number * second) % whole, 31) * first % whole
        other = (turn(wanted, rotated) - mixed) * pow(second, -1, whole) % whole
        if other < 2**61 - 1:
            found.append(b"\x92" + pack(number) + pack(other) + pack(None))
        number += 1
    return b"\xdf" + count.to_bytes(4, "big") + b"".join(found)


def within(seconds: float, work: Callable[[], object]) -> None:
    """A guard, not a measurement: what it guards against takes many times as long."""
    begun = time.thread_time()
    work()
    assert time.thread_time() - begun < seconds


def test_the_keys_have_one_hash() -> None:
    assert len({hash(key) for key in msgspec.msgpack.decode(list_keys(50))}) == 1


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("wrap", [b"", b"\x91", b"\x81\xa1k"], ids=["alone", "in a list", "in a map"])
@pytest.mark.parametrize("count", [3_000, 40_000])
def test_lists_for_keys_cost_no_more_than_other_values(count: int, wrap: bytes) -> None:
    """Half a second and most of a minute, where they are decoded."""
    body = wrap + list_keys(count)

    def check() -> None:
        with pytest.raises(WireError) as caught:
            values.check_value(body)
        assert caught.value.code == Code.INVALID_OUTPUT
        with pytest.raises(msgspec.DecodeError):
            values.decode_any(body)
        with pytest.raises(msgspec.DecodeError):
            values.check_keys(body)
        request = pack({"type": "invoke", "id": 1, "plugin": "p", "action": "onActionExecute", "userId": "u",
                        "payload": msgspec.Raw(body)})
        with pytest.raises(WireError):
            codec.decode_request(request, 1 << 20)
        with pytest.raises(WireError):
            hooks.check_result("onActionExecute", pack({"result": msgspec.Raw(body), "metadata": {}}))
        assert not hooks.is_decodable(body)

    within(0.3, check)


@given(VALUES)
def test_a_shape_is_faulty_if_a_list_is_a_key(value: Any) -> None:
    assert values.fault_of_shape(pack(value)) == ""
    assert values.fault_of_shape(pack([value, {(1, 2): value}])) == "a map's key is a list"
    assert values.fault_of_shape(pack({"k": [{"a": value, (): 1}]})) == "a map's key is a list"
    members = sum(len(one) for one in every(value) if isinstance(one, list | dict))
    assert values.fault_of_shape(pack(value), members) == ""
    assert not members or values.fault_of_shape(pack(value), members - 1) == f"more than {members - 1} values"


def test_a_large_value_is_checked_as_a_small_one_is() -> None:
    rows = [{"n": n, "at": datetime.now(UTC), "raw": b"x", "deep": [[[[[[[[[n]]]]]]]]]} for n in range(1000)]
    assert values.check_value(pack(rows)) == rows
    assert values.decode_any(pack(rows)) == rows
    with pytest.raises(values.TooDear):
        values.check_in_loop(pack(rows))
    plain = [{"n": n, "name": f"row {n}"} for n in range(2000)]
    assert values.check_in_loop(pack(plain)) == plain


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


@pytest.mark.parametrize(("method", "params"), [
    ("query", {"sql": "SELECT 1", "params": [0]}), ("insert", {"table": "t", "values": {"a": 0}}),
    ("update", {"table": "t", "values": {"a": 1}, "where": {"a": 0}}), ("fetch", {"url": "http://a.b", "body": 0})])
def test_the_gateway_decodes_no_lists_for_keys(method: str, params: dict[str, Any]) -> None:
    body = pack(params)
    at = body.rindex(b"\x00")
    body = body[:at] + list_keys(12_000) + body[at + 1 :]

    def decode() -> None:
        with pytest.raises(ApiFailure) as failure:
            _decoded(Call(1, method, "p", "u", (), (), 0, body))
        assert failure.value.code == "invalid_params"

    within(0.2, decode)


@pytest.mark.parametrize("payload", [list_keys(3_000), b"\xdc\xea\x60" + b"\x90" * 60_000,
                                     b"\xdc\x03\xe8" + (b"\x91" * 60 + b"\xc0") * 1000],
                         ids=["list keys", "60,000 lists", "1,000 lists 60 deep"])
def test_the_loop_looks_through_no_dear_effect(payload: bytes) -> None:
    body = b"\x82\xa5event\xa1x\xa7payload" + payload

    def collect() -> None:
        request = api.decode("emit", body)
        assert isinstance(request, api.Emit)
        with pytest.raises(EffectRefused):
            Effects().add("p", request, frozenset())
        answers: list[str] = []
        methods = HostMethods(lambda _kind, _peer: None)
        methods.provide(Peer(b"h", 0, None), ["admin.users.list"])  # type: ignore[arg-type]  # nothing is sent to it
        methods.call(api.HostMethod("admin.users.list", msgspec.Raw(payload)), "p", "u", 1,
                     lambda _result, code, _message: answers.append(code))
        assert answers[0] in ("too_large", "invalid_output")

    within(0.03, collect)
