"""What the pivot promises: exact sums, empty cells, and errors that name the line."""

from typing import Any

import plugin as module
import pytest
from plugin import plugin
from workers.fake import FakePlatform

TEXT = "region,month,amount\nnorth,Jan,0.1\nnorth,Jan,0.2\nsouth,Feb,5\n"


def ask(text: str = TEXT, **columns: str) -> Any:
    """The answer to one pivot."""
    wanted = {"csv": text, "rows": "region", "columns": "month", "values": "amount"} | columns
    return FakePlatform(plugin).call("onActionExecute", {"action": "csv.pivot", "context": wanted})["result"]


def test_sums_are_exact_and_what_is_not_there_is_empty() -> None:
    assert ask() == {"columns": ["Feb", "Jan"], "rows": [
        {"name": "north", "cells": [None, "0.3"]}, {"name": "south", "cells": ["5", None]}]}


@pytest.mark.parametrize(("text", "columns", "error"), [
    (TEXT + "south,Mar,much\n", {}, "line 5: 'much' is not a number"),
    (TEXT, {"rows": "country"}, "the text has no column country"),
    ("", {}, "the text has no column region, month, amount"),
])
def test_what_is_wrong_is_said_in_words(text: str, columns: dict[str, str], error: str) -> None:
    assert ask(text, **columns) == {"error": error}


def test_a_table_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS_MAX", 1)
    assert ask() == {"error": "the table would have more than 1 cells"}


def test_other_actions_are_left_to_other_plugins() -> None:
    assert FakePlatform(plugin).call("onActionExecute", {"action": "x", "context": {}})["result"] is None
