"""The specification's first plugin, in the dict form: a chart, and a data set in the form that the chart draws."""

from typing import Any


def on_dashboard_load(params: dict[str, Any]) -> dict[str, Any]:
    """One chart for the dashboard that was loaded."""
    return {"customWidgets": [{"id": "chart", "component": "Chart", "props": {"dashboard": params["dashboardId"]}}]}


def on_data_fetch(params: dict[str, Any]) -> dict[str, Any]:
    """The query with the names of its filters; if there are data, also their number of rows and the totals by region.
    """
    made: dict[str, Any] = {"query": params["query"], "filters": sorted(params["filters"])}
    rows = params.get("data")
    if isinstance(rows, list):
        made["rows"] = len(rows)
        made["totals"] = totals(rows)
    return {"transformedData": made}


def totals(rows: list[Any]) -> dict[str, Any]:
    """region -> sum of its totals; items that are not rows are skipped."""
    sums: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, dict) and "region" in row:
            sums[row["region"]] = sums.get(row["region"], 0) + row.get("total", 0)
    return sums


plugin = {
    "id": "custom-analytics",
    "version": "1.0.0",
    "permissions": ["data:read", "ui:render"],
    "hooks": {"onDashboardLoad": on_dashboard_load, "onDataFetch": on_data_fetch},
}
