"""The chart, and the data set that it draws."""

from plugin import on_dashboard_load, on_data_fetch


def test_the_chart_is_of_the_dashboard_that_was_loaded() -> None:
    (widget,) = on_dashboard_load({"dashboardId": "main"})["customWidgets"]
    assert widget == {"id": "chart", "component": "Chart", "props": {"dashboard": "main"}}


def test_rows_are_counted_and_summed_by_region() -> None:
    rows = [{"region": "n", "total": 3}, {"region": "n", "total": 4}, {"region": "s", "total": 1}, "no row"]
    made = on_data_fetch({"query": "sales", "filters": {"year": 2026}, "data": rows})["transformedData"]
    assert made == {"query": "sales", "filters": ["year"], "rows": 4, "totals": {"n": 7, "s": 1}}


def test_without_data_there_is_the_query_alone() -> None:
    assert on_data_fetch({"query": "q", "filters": {"b": 1, "a": 2}}) == {
        "transformedData": {"query": "q", "filters": ["a", "b"]}}
