"""Values of the protocol survive JSON both ways, and what JSON cannot say is refused and never turned into another."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.door import values
from apex_exec.errors import WireError

KEYS = st.text(max_size=5) | st.sampled_from(["$bin", "$$bin", "$time", "$$$int", "$int", "$", "$$", "$other"])
PLAIN = (st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
         | st.text(max_size=20) | st.binary(max_size=20)
         | st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
                      max_leaves=12)


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_every_value_comes_back_as_it_was(value: dict[str, Any]) -> None:
    wrapped = {"value": value, "": 1}
    assert same(values.decode(values.encode(wrapped)), wrapped)


@pytest.mark.parametrize(("written", "meant"), [
    ({"$bin": "AAE="}, b"\x00\x01"), ({"$$bin": "AAE="}, {"$bin": "AAE="}),
    ({"$int": "18446744073709551615"}, 2**64 - 1),
    ({"$time": "2026-01-31T12:00:00.5+02:00"}, datetime(2026, 1, 31, 10, 0, 0, 500000, UTC)),
    ({"$gt": 5}, {"$gt": 5}), ({"$bin": "AAE=", "a": 1}, {"$bin": "AAE=", "a": 1}), ([1.0, 1], [1.0, 1])])
def test_the_forms_of_what_json_does_not_have(written: Any, meant: Any) -> None:
    found = values.decode(json.dumps({"v": written}).encode())["v"]
    assert found == meant and type(found) is type(meant)


@pytest.mark.parametrize("body", [
    b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e400}',
    b'{"a":18446744073709551616}', b'{"a":-9223372036854775809}', b'{"a":{"$int":"18446744073709551616"}}',
    b'{"a":{"$bin":"AAE"}}', b'{"a":{"$bin":"A A="}}', b'{"a":{"$bin":5}}', b'{"a":{"$int":5}}',
    b'{"a":{"$int":"1.5"}}',
    b'{"a":{"$time":"2026-01-31"}}', b'{"a":{"$time":"2026-01-31T12:00:00"}}', b'{"a":{"$int":"01"}}',
    b'{"a":{"$time":"2026-01-31T12:00:00.1234567Z"}}', b'{"a":{"$time":"2026-13-31T12:00:00Z"}}'],
    ids=lambda body: body.decode()[:40])
def test_what_would_be_lost_is_refused(body: bytes) -> None:
    with pytest.raises(WireError) as refused:
        values.decode(body)
    assert refused.value.code == "INVALID_INPUT"


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"5", b'"a"', b"null", b"\xff\xfe", b"{}x", b"\xef\xbb\xbf{}", b"{'a':1}", b'{"a":01}',
    b'{"a":' + b"9" * 5000 + b"}", b'{"a":"\x01"}'], ids=lambda body: repr(body[:12]))
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(WireError) as refused:
        values.decode(body)
    assert refused.value.code == "PROTOCOL_ERROR"


def test_depth_and_number_of_lists_are_bounded_and_brackets_in_text_do_not_count() -> None:
    for body in (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":[' + b"[]," * 70_000 + b"1]}",
                 b'{"a":' * 30_000 + b"1" + b"}" * 30_000):
        with pytest.raises(WireError) as refused:
            values.decode(body)
        assert refused.value.code == "PAYLOAD_TOO_LARGE"
    assert values.decode(b'{"a":"' + b"[" * 100_000 + b'"}')["a"] == "[" * 100_000


@pytest.mark.parametrize("body", [
    b'"\\' * 300_000 + b"[" * 70_000, b'"' + b"[\\" * 200_000, b'"' * 400_001 + b"{" * 70_000,
    b"[" * 70_000 + b'"\\"' * 200_001, b'"' + b"\\" * 500_001 + b"[" * 70_000])
def test_no_body_keeps_the_door_busy(body: bytes) -> None:
    """Text without an end: each of its quotes could be looked at as the beginning of another text."""
    begun = time.thread_time()
    with pytest.raises(WireError):
        values.decode(body)
    assert time.thread_time() - begun < 2
