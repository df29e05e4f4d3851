"""A report as HTML. Jinja2 is in ``vendor/``; the template is a file of the bundle, and every value in it is escaped."""

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from workers import Plugin

plugin = Plugin(id="monthly-report", version="0.1.0", permissions=[])

ROWS_MAX = 1000
TEMPLATES = {"report.html": (Path(__file__).parent / "templates" / "report.html").read_text("utf-8")}
report = Environment(loader=DictLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                     trim_blocks=True, lstrip_blocks=True).get_template("report.html")


@plugin.hook("onActionExecute")
def render(params: dict[str, Any]) -> dict[str, Any]:
    """Answers "report.render" with ``context`` {"title", "rows": [{"name", "amount"}]}; leaves all other actions."""
    if params["action"] != "report.render":
        return {"result": None, "metadata": {}}
    rows = params["context"].get("rows", [])[:ROWS_MAX]
    try:
        amounts = [Decimal(str(row["amount"])) for row in rows]
        names = [str(row["name"]) for row in rows]
    except (KeyError, TypeError, InvalidOperation):
        return {"result": {"error": "a row is {name, amount}, and an amount is a number"}, "metadata": {}}
    html = report.render(title=str(params["context"].get("title", "Report")),
                         rows=list(zip(names, amounts, strict=True)), total=sum(amounts, Decimal(0)))
    return {"result": {"html": html}, "metadata": {"rows": len(rows)}}
