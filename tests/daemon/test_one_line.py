"""A message that a host gets is one line that prints, whatever a plugin put into its exception."""

from __future__ import annotations

import pytest

from apex_exec.core.actions import Verdict
from apex_exec.executor.outcome import MESSAGE_CHARS_MAX, at_place, settle
from workers import wire as inner

HOSTILE = ("two\nlines", "\x1b[2J\x1b]0;owned\x07", "a\u202egnp.exe", "a\u2028b", "\ud800", "\r\n" * 5000, "plain π")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_message_of_a_plugins_making_has_ends_of_lines_or_codes_for_a_terminal(text: str) -> None:
    said = [
        inner.Raised(0, "ValueError", text, f'File "{text}", line 1', 0),
        inner.Raised(0, f"Odd{text}"[:200], text, "", 0, api_code=text, api_method=text),
        inner.BadOutput(0, f"$.{text}", text, 0), inner.BadInput(0, text, 0), None]
    for body in said:
        told = settle(Verdict(1, "p", "onDataFetch", "u", "PLUGIN_ERROR", text, body, {}, True, 0, 0, False, 1))
        assert told.message and told.message.isprintable() and len(told.message) <= MESSAGE_CHARS_MAX
        assert str(told.details.get("exception", "")).isprintable()
    place = at_place(text, f'  File "{text[:50]}.py", line 3, in hook\n')
    assert place.isprintable() and len(place) <= MESSAGE_CHARS_MAX


def test_a_message_that_prints_is_left_as_it_is() -> None:
    body = inner.Raised(0, "ValueError", "größer als 3 €", "", 0)
    told = settle(Verdict(1, "p", "onDataFetch", "u", "PLUGIN_ERROR", "", body, {}, True, 0, 0, False, 1))
    assert told.message == "ValueError: größer als 3 €"
