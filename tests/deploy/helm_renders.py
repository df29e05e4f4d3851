"""Asks Helm's own library about a chart, in a process of its own: the library is in Go, and starts threads that a test
which forks should not have. Reads the chart's folder and the releases from the arguments; prints JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python


def answer(chart: str, releases: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``helm lint --strict`` says, and of each release the manifests by path, or why Helm refuses it."""
    rendered: list[Any] = []
    with helm_python.Chart.load(chart) as loaded:
        for one in releases:
            try:
                loaded.validate_schema(one["values"])
                rendered.append(loaded.render(one["values"], name=one["name"], namespace="shop"))
            except helm_python.HelmError as error:
                rendered.append(str(error))
    return {"lint": helm_python.lint(chart, strict=True), "rendered": rendered}


if __name__ == "__main__":
    print(json.dumps(answer(sys.argv[1], json.loads(sys.argv[2]))))
