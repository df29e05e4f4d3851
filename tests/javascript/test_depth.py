"""How deep a message of the engine may be nested: the same on every version of CPython, whose decoders differ in it."""

from __future__ import annotations

import json
import random

import pytest

from workers.javascript.values import LEVELS_MAX, read
from workers.runtime.values import NotAValue


def nested(levels: int, rng: random.Random) -> str:
    """A message of exactly ``levels`` levels: lists and maps as chance has it, with brackets in texts beside them."""
    value = rng.choice(('1', '"]]}}{{[["', 'null'))
    for _ in range(levels):
        value = rng.choice((f"[{value}]", f'[[], {value}, {{"x": []}}]' if levels < LEVELS_MAX else f"[1, {value}]",
                            f'{{"a": {value}}}', f'{{"[{{": "}}]", "a": {value}}}'))
    return value


@pytest.mark.parametrize("seed", range(20))
def test_a_message_may_have_so_many_levels_and_not_one_more(seed: int) -> None:
    rng = random.Random(seed)
    text = nested(LEVELS_MAX, rng)
    assert read(text) == (json.loads(text), False)
    for levels in (LEVELS_MAX + 1, LEVELS_MAX + 2, 900, 5_000, 200_000):
        with pytest.raises(NotAValue, match="nested too deeply"):
            read(f'{{"a": {"[" * (levels - 1)}{"]" * (levels - 1)}}}' if seed % 2 else nested(levels, rng)
                 if levels < 900 else "[" * levels + "]" * levels)


def test_width_is_not_depth() -> None:
    wide = json.dumps([[[{"a": [number]}] for number in range(100)] for _ in range(300)] + ["[" * 500])
    assert read(wide)[0] == json.loads(wide)
