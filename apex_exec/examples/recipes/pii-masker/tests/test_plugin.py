"""What the masker promises: people disappear, wherever they stand; other numbers stay."""

from typing import Any

import pytest
from plugin import plugin
from workers.fake import FakePlatform


def ask(data: Any, keep: int = 4) -> Any:
    """The data as the next plugin gets it."""
    return FakePlatform(plugin, settings={"keep": keep}).call(
        "onDataFetch", {"query": "q", "filters": {}, "data": data})["transformedData"]


@pytest.mark.parametrize(("text", "masked"), [
    ("mail anna.schmidt@example.co.uk now", "mail a***@example.co.uk now"),
    ("4111 1111 1111 1111", "************1111"),
    ("4111 1111 1111 1112 has a wrong check digit", "4111 1111 1111 1112 has a wrong check digit"),
    ("GB82 WEST 1234 5698 7654 32", "******************5432"),
    ("GB83 WEST 1234 5698 7654 32", "GB83 WEST 1234 5698 7654 32"),
    ("order 2026-1130-77", "order 2026-1130-77"),
])
def test_what_identifies_a_person_is_masked_and_nothing_else(text: str, masked: str) -> None:
    assert ask(text) == masked


def test_masking_reaches_every_text_and_leaves_all_else() -> None:
    data = [{"to": ["b@example.org"], "n": 5, "ok": True, "none": None}]
    assert ask(data) == [{"to": ["b***@example.org"], "n": 5, "ok": True, "none": None}]


def test_the_operator_decides_how_much_of_a_number_stays() -> None:
    assert ask("4111111111111111", keep=0) == "*" * 16
