"""What was copied is mended once and stays wrong in the other place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suite.copies import copies
from tests.suite.imports import ROOT, sources

ALLOWED = {
    frozenset({"AuditStore._check_anchors", "AuditStore._check_end"}):
        "the same two questions, of an anchor and of a signed head: what is wrong then is not the same",
    frozenset({"open_grant", "open_index"}): "two documents with an envelope each: every refusal has its own reason",
    frozenset({"get"}): "a row or its own refusal: a submission's and a ticket's",
}
"""Functions that may have code of one shape, and why."""


@pytest.mark.slow
def test_no_code_is_copied_without_a_reason() -> None:
    found = copies(sources("apex_exec", "workers"), ROOT)
    unexplained = [[str(place) for place in group] for group in found
                   if frozenset(place.function for place in group) not in ALLOWED]
    assert not unexplained


BODY = """
def {name}(first, second):
    total = 0
    for {one} in sorted(first):
        if {one} in second and second[{one}].enabled:
            total += len({one}.strip()) * {number}
        elif not {one}:
            raise ValueError("nothing: " + repr({one}))
    return total
"""


def test_a_copy_with_other_names_and_numbers_is_found(tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(BODY.format(name="lengths", one="word", number=2))
    second.write_text(BODY.format(name="weights", one="item", number=7))
    assert [[place.function for place in group] for group in copies([first, second], ROOT)] == [["lengths", "weights"]]
    second.write_text(BODY.format(name="weights", one="item", number=7).replace(".strip()", ".title()"))
    assert not copies([first, second], ROOT)
