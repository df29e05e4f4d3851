"""A pivot table of a CSV text: one row for each value of a column, one column for each of another, sums in between."""

import csv
import io
from decimal import Decimal, InvalidOperation
from typing import Any

from workers import Plugin

plugin = Plugin(id="csv-pivot", version="0.1.0", permissions=[])

CELLS_MAX = 10_000


@plugin.hook("onActionExecute")
def pivot(params: dict[str, Any]) -> dict[str, Any]:
    """Answers the action "csv.pivot" with ``context`` {"csv", "rows", "columns", "values"}; leaves all others."""
    if params["action"] != "csv.pivot":
        return {"result": None, "metadata": {}}
    wanted = params["context"]
    reader = csv.DictReader(io.StringIO(str(wanted.get("csv", ""))))
    names = [wanted.get(part) for part in ("rows", "columns", "values")]
    missing = [str(name) for name in names if name not in (reader.fieldnames or ())]
    if missing:
        return _failed(f"the text has no column {', '.join(missing)}")
    row, column, value = (str(name) for name in names)
    sums: dict[tuple[str, str], Decimal] = {}
    for line in reader:
        try:
            number = Decimal((line[value] or "0").strip())
        except InvalidOperation:
            return _failed(f"line {reader.line_num}: {line[value]!r} is not a number")
        place = line[row] or "", line[column] or ""
        sums[place] = sums.get(place, Decimal(0)) + number
        if len(sums) > CELLS_MAX:
            return _failed(f"the table would have more than {CELLS_MAX} cells")
    columns = sorted({place[1] for place in sums})
    table = [{"name": name, "cells": [str(sums[name, one]) if (name, one) in sums else None for one in columns]}
             for name in sorted({place[0] for place in sums})]
    return {"result": {"columns": columns, "rows": table}, "metadata": {"lines": reader.line_num}}


def _failed(why: str) -> dict[str, Any]:
    return {"result": {"error": why}, "metadata": {}}
