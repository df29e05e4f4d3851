"""The document's first plugin, in the dict form: a widget, and the filters of a query summed up."""


def on_dashboard_load(params):
    """One chart for the dashboard that was loaded."""
    return {"customWidgets": [{"id": "chart", "component": "Chart", "props": {"dashboard": params["dashboardId"]}}]}


def on_data_fetch(params):
    """The query with the names of its filters, in order."""
    return {"transformedData": {"query": params["query"], "filters": sorted(params["filters"])}}


plugin = {
    "id": "custom-analytics",
    "version": "1.0.0",
    "permissions": ["data:read", "ui:render"],
    "hooks": {"onDashboardLoad": on_dashboard_load, "onDataFetch": on_data_fetch},
}
