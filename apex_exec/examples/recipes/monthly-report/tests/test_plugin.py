"""What the report promises: exact totals, and no value that becomes markup."""

from typing import Any

from plugin import plugin
from workers.fake import FakePlatform


def ask(rows: Any, title: str = "May") -> Any:
    """The answer for one report."""
    return FakePlatform(plugin).call("onActionExecute", {
        "action": "report.render", "context": {"title": title, "rows": rows}})["result"]


def test_a_report_has_its_rows_and_an_exact_total() -> None:
    html = ask([{"name": "A", "amount": "1000.10"}, {"name": "B", "amount": 0.2}])["html"]
    assert "<td>A</td><td>1,000.10</td>" in html and "<th>1,000.30</th>" in html


def test_values_are_never_markup() -> None:
    html = ask([{"name": "<img src=x>", "amount": 1}], "<script>")["html"]
    assert "<script>" not in html and "<img" not in html


def test_a_row_that_is_none_is_an_answer_in_words() -> None:
    assert "error" in ask([{"name": "A"}]) and "error" in ask([{"name": "A", "amount": "much"}])
    assert FakePlatform(plugin).call("onActionExecute", {"action": "x", "context": {}})["result"] is None
