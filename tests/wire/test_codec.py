"""The host codec: only WireError escapes, and the value rule holds with its path."""

from __future__ import annotations

from datetime import UTC

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.errors import Code, WireError
from apex_exec.wire import codec, messages, values

pack = msgspec.msgpack.encode
INVOKE = {"type": "invoke", "id": 1, "plugin": "a-b-c", "action": "onDataFetch", "userId": "u"}


def code_of(body: bytes, bytes_max: int = 1 << 20) -> str:
    with pytest.raises(WireError) as caught:
        codec.decode_request(body, bytes_max)
    return caught.value.code


def test_an_invoke_decodes_and_its_payload_stays_undecoded() -> None:
    got = codec.decode_request(pack({**INVOKE, "payload": {"query": "q"}, "unknown": 1, "deadlineMs": 5.0}), 4096)
    assert isinstance(got, messages.Invoke)
    assert msgspec.msgpack.decode(got.payload) == {"query": "q"} and got.deadline_ms == 5


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"type": "nonsense"}, Code.PROTOCOL_ERROR),
        ({"id": -1}, Code.PROTOCOL_ERROR),
        ({"id": 2**63}, Code.PROTOCOL_ERROR),
        ({"id": float("nan")}, Code.PROTOCOL_ERROR),
        ({"id": "x" * 65}, Code.PROTOCOL_ERROR),
        ({"action": "a" * 101}, Code.INVALID_INPUT),
        ({"plugin": 7}, Code.INVALID_INPUT),
        ({"deadlineMs": float("inf")}, Code.INVALID_INPUT),
    ],
)
def test_a_bad_envelope_gets_its_code(change: dict[str, object], code: Code) -> None:
    assert code_of(pack({**INVOKE, **change})) == code


@pytest.mark.parametrize(("field", "code"), [
    ("userId", Code.INVALID_INPUT), ("plugin", Code.INVALID_INPUT), ("id", Code.PROTOCOL_ERROR),
    ("type", Code.PROTOCOL_ERROR)])
def test_a_field_that_is_left_out_is_named(field: str, code: Code) -> None:
    with pytest.raises(WireError) as caught:
        codec.decode_request(pack({key: value for key, value in INVOKE.items() if key != field}), 4096)
    assert (caught.value.code, caught.value.details) == (code, {"path": f"$.{field}"})


def test_size_and_depth_are_bounded() -> None:
    deep: object = 1
    for _ in range(80):
        deep = [deep]
    assert code_of(pack({**INVOKE, "payload": {"x": deep}})) == Code.PAYLOAD_TOO_LARGE
    assert code_of(b"\x91" * 100_000 + b"\xc0") == Code.PAYLOAD_TOO_LARGE
    assert code_of(pack(INVOKE), bytes_max=8) == Code.PAYLOAD_TOO_LARGE


@given(st.binary(max_size=300))
def test_only_wire_errors_escape_from_any_bytes(body: bytes) -> None:
    for call in (lambda: codec.decode_request(body, 1 << 20), lambda: values.check_value(body)):
        try:
            call()
        except WireError as error:
            assert error.code in Code


@pytest.mark.parametrize(
    ("value", "path"),
    [({"a": [1, float("nan")]}, "$.a[1]"), ({"a": {"b": 2**53}}, "$.a.b"), ({"a": {1: 2}}, "$.a")],
)
def test_a_value_outside_the_rule_is_refused_with_its_path(value: object, path: str) -> None:
    with pytest.raises(WireError) as caught:
        values.check_value(pack(value))
    assert caught.value.code == Code.INVALID_OUTPUT and caught.value.details["path"] == path


@pytest.mark.parametrize(("keys", "path"), [
    (["a"], "$.a"), (["größe"], "$.größe"), (["a.b"], '$["a.b"]'), (["a", "b"], "$.a.b"), ([""], '$[""]'),
    (['say "x"'], '$["say \\"x\\""]'), (["]"], '$["]"]'), (["0"], '$["0"]'), (["\u202e"], '$["\\u202e"]'),
    (["\n"], '$["\\n"]'), (["😀", "x y"], '$["😀"]["x y"]'), (["k" * 99], f"$.{'k' * 64}")])
def test_each_path_means_one_place_whatever_the_keys(keys: list[str], path: str) -> None:
    value: object = 2**60
    for key in reversed(keys):
        value = {key: value}
    with pytest.raises(WireError) as caught:
        values.check_value(pack(value))
    assert caught.value.details == {"path": path}


def test_bytes_and_aware_timestamps_are_values() -> None:
    assert values.check_value(pack({"b": b"\x00\xff"})) == {"b": b"\x00\xff"}
    assert values.check_value(b"\xd6\xff\x00\x00\x00\x01").timestamp() == 1


@given(st.binary(max_size=300))
def test_an_id_is_sought_in_any_bytes_without_an_error(body: bytes) -> None:
    for code in (Code.PAYLOAD_TOO_LARGE, Code.PROTOCOL_ERROR):
        found = codec.id_of(body, code)
        assert found is None or isinstance(found, int | str)


@given(st.one_of(st.integers(0, 2**63 - 1), st.text(min_size=1, max_size=64)), st.integers(0, 7),
       st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-(2**31), 2**31), st.floats(allow_nan=False),
                              st.text(max_size=5), st.binary(max_size=5), st.datetimes(timezones=st.just(UTC))),
                    lambda inner: st.one_of(st.lists(inner, max_size=3),
                                            st.dictionaries(st.text(max_size=3), inner, max_size=3)), max_leaves=8))
def test_an_id_among_the_first_keys_is_found_behind_any_value(id_: int | str, place: int, value: object) -> None:
    fields = [(f"k{n}", value) for n in range(7)]
    fields.insert(place, ("id", id_))
    assert codec.peek_id(msgspec.msgpack.encode(dict(fields))) == id_


def test_the_search_for_an_id_is_bounded() -> None:
    assert codec.peek_id(msgspec.msgpack.encode({"x": [0] * 300, "id": 1})) is None
    assert codec.peek_id(msgspec.msgpack.encode({**{f"k{n}": 0 for n in range(8)}, "id": 1})) is None
    assert codec.peek_id(b"\xdf\xff\xff\xff\xff" + b"\xa1x\xdd\xff\xff\xff\xff" * 100) is None
