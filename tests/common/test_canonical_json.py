"""What is signed is written in one way, today as in every earlier release."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.common.canonical_json import canonical_json
from apex_exec.registry.trust.approvals import Statement

pytestmark = pytest.mark.fast

VALUES = st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False,
                      allow_infinity=False) | st.text(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
                          st.text(), inner, max_size=4), max_leaves=12)


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.randoms())
def test_equal_values_are_equal_text_whatever_the_order_of_their_keys(value: dict[str, Any], random: Any) -> None:
    shuffled = list(value.items())
    random.shuffle(shuffled)
    text = canonical_json(value)
    assert canonical_json(dict(shuffled)) == text
    assert text.isascii() and json.loads(text) == value
    assert canonical_json(json.loads(text)) == text, "a reader can write it again"


def test_an_approval_is_written_as_it_always_was() -> None:
    made = Statement(request=3, plugin="a", version="1.0.0", digest="0" * 64, permission="admin:users",
                     decision="approve", reason='Grüße "\U0001f642"\n', uid=1000, key_id="f" * 32,
                     at_ns=1_800_000_000_000_000_001, expires_ns=2**61)
    assert made.text() == (
        '{"atNs":1800000000000000001,"decision":"approve","digest":"' + "0" * 64 + '","expiresNs":2305843009213693952,'
        '"keyId":"' + "f" * 32 + '","permission":"admin:users","plugin":"a","reason":"Gr\\u00fc\\u00dfe '
        '\\"\\ud83d\\ude42\\"\\n","request":3,"uid":1000,"version":"1.0.0"}')
    assert msgspec.json.decode(made.text(), type=Statement) == made


def test_what_json_has_not_is_refused() -> None:
    for value in (float("nan"), float("inf"), {"a": object()}):
        with pytest.raises((TypeError, ValueError)):
            canonical_json(value)
