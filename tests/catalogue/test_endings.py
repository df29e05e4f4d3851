"""What is announced to end is warned of where it is used, and keeps the promise that the guide gives to authors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date

import pytest

from apex_exec import API_VERSION
from apex_exec.catalogue.endings import ENDINGS, Ending
from apex_exec.catalogue.hooks import BUILT_IN
from apex_exec.catalogue.methods import METHODS
from apex_exec.catalogue.permissions import PERMISSIONS
from apex_exec.registry.scan.child import scan_files
from apex_exec.registry.scan.scanner import Request

MONTHS_MIN = 24
NAMES = {"hook": {hook.name for hook in BUILT_IN}, "method": set(METHODS), "permission": set(PERMISSIONS)}
GOOD = Ending("1.0.0", "2026-11-30", "3.0.0", "use fetch")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def months(ending: Ending, today: date) -> int:
    """From the announcement until today, when it is there still."""
    on = date.fromisoformat(ending.on)
    return (today.year - on.year) * 12 + today.month - on.month - (today.day < on.day)


def broken(endings: Mapping[tuple[str, str], Ending], api: str, today: date) -> Iterator[str]:
    """Which of them do not keep the promise."""
    for (kind, name), ending in endings.items():
        if name not in NAMES[kind]:
            yield f"{name}: gone from the catalogue, and still announced here"
        if numbers(ending.announced) > numbers(api) or numbers(ending.until)[0] <= numbers(ending.announced)[0]:
            yield f"{name}: nothing ends before the next major version after the announcement"
        if numbers(api) >= numbers(ending.until) and months(ending, today) < MONTHS_MIN:
            yield f"{name}: it ends less than {MONTHS_MIN} months after the announcement"


def test_what_is_announced_keeps_the_promise() -> None:
    assert list(broken(ENDINGS, API_VERSION, date.today())) == []


@pytest.mark.parametrize(("key", "ending", "api", "says"), [
    (("method", "fetch"), GOOD, "2.9.0", ""), (("method", "fetch"), GOOD, "3.0.0", "less than 24 months"),
    (("method", "fetched"), GOOD, "1.0.0", "gone"),
    (("hook", "onDataFetch"), Ending("1.4.0", "2026-11-30", "1.6.0", "x"), "1.5.0", "next major"),
    (("permission", "ui:render"), GOOD, "0.9.0", "next major")])
def test_an_entry_that_breaks_the_promise_is_found(key: tuple[str, str], ending: Ending, api: str, says: str) -> None:
    found = " ".join(broken({key: ending}, api, date(2028, 11, 29)))
    assert says in found and bool(found) == bool(says)


@pytest.mark.parametrize(("path", "code", "line"), [
    ("plugin.py", "def load(context):\n    return context.api.render_widget('Card')\n", 2),
    ("index.js", "export default { hooks: {\n  onDashboardLoad: (c) => c.api.renderWidget('Card') } };\n", 2)])
def test_what_ends_is_warned_of_where_it_is_used(
        monkeypatch: pytest.MonkeyPatch, path: str, code: str, line: int) -> None:
    asked = Request({path: code.encode()}, [], ["ui:render", "data:read"], hooks=["onDashboardLoad", "onDataFetch"],
                    entrypoint=path)
    assert [item for item in scan_files(asked) if item.rule == "deprecated"] == []
    for key in (("method", "renderWidget"), ("method", "query"), ("hook", "onDataFetch"), ("permission", "data:read")):
        monkeypatch.setitem(ENDINGS, key, GOOD)  # type: ignore[misc]  # the kinds are literals
    found = [item for item in scan_files(asked) if item.rule == "deprecated"]
    assert [(item.path, item.line, item.severity) for item in found] == [
        (path, line, "warning"), ("manifest.json", 0, "warning"), ("manifest.json", 0, "warning")]
    assert found[0].message == (
        "the method renderWidget ends with plugin API 3.0.0 (announced with 1.0.0 on 2026-11-30): use fetch")
    assert "the hook onDataFetch" in found[1].message and "the permission data:read" in found[2].message
