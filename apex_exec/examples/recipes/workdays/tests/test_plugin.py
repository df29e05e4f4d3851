"""What working days promise: weekends, holidays and Easter are skipped; nonsense is an answer."""

from typing import Any

import pytest
from plugin import plugin
from workers.fake import FakePlatform


def ask(action: str, holidays: tuple[str, ...] = ("12-25",), easter: bool = True, **given: Any) -> Any:
    """The answer to one action."""
    platform = FakePlatform(plugin, settings={"holidays": list(holidays), "easter": easter})
    return platform.call("onActionExecute", {"action": f"workdays.{action}", "context": given})["result"]


def test_days_are_added_across_a_weekend_and_a_holiday() -> None:
    assert ask("add", **{"from": "2026-12-23", "days": 2}) == {"date": "2026-12-28"}
    assert ask("add", **{"from": "2026-12-23", "days": 0}) == {"date": "2026-12-23"}


def test_easter_counts_if_the_operator_says_so() -> None:
    assert ask("count", **{"from": "2026-04-01", "to": "2026-04-07"}) == {"days": 2}
    assert ask("count", easter=False, **{"from": "2026-04-01", "to": "2026-04-07"}) == {"days": 4}


@pytest.mark.parametrize("given", [{}, {"from": "soon", "days": 1}, {"from": "2026-01-01", "days": 10**9},
                                   {"from": "9999-12-31", "days": 1}])
def test_what_cannot_be_computed_is_an_answer_in_words(given: dict[str, Any]) -> None:
    assert "error" in ask("add", **given)


def test_a_span_has_a_bound_and_other_actions_are_left_alone() -> None:
    assert "error" in ask("count", **{"from": "1000-01-01", "to": "2000-01-01"})
    assert FakePlatform(plugin, settings={}).call("onActionExecute", {"action": "x", "context": {}})["result"] is None
