"""The fake platform answers as the gateway would, as far as it can."""

from __future__ import annotations

from typing import Any

import pytest

from workers import PermissionDenied, Plugin
from workers.fake import FakePlatform


def asked(permissions: list[str], steps: list[tuple[str, tuple[Any, ...], dict[str, Any]]], **more: Any) -> list[Any]:
    plugin = Plugin(id="p", version="1.0.0", permissions=permissions)

    @plugin.hook("onActionExecute")
    def act(context: Any) -> Any:
        return [getattr(context.api, method)(*args, **named) for method, args, named in steps]

    return FakePlatform(plugin, **more).call("onActionExecute", {"action": "x", "context": {}})  # type: ignore[no-any-return]


def test_writes_answer_with_the_rows_that_they_were_given() -> None:
    row, two = {"a": 1, "b": 2}, [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert asked(["data:write", "data:read"], [
        ("insert", ("t", row), {}), ("insert", ("t", two), {}), ("insert", ("t", two), {"returning": ["b"]}),
        ("upsert", ("t", row, "a"), {}), ("upsert", ("t", two, ["a"]), {"returning": True, "update": []}),
        ("update", ("t", {"a": 1}, {"b": 2}), {}), ("delete", ("t", {"b": 2}), {})]) == [
            {"rowCount": 1, "row": row}, {"rowCount": 2}, {"rowCount": 2, "rows": [{"b": 2}, {"b": 4}]},
            {"rowCount": 1}, {"rowCount": 2, "rows": two}, {"rowCount": 1}, {"rowCount": 1}]


def test_writes_answer_what_the_test_says_and_returned_rows_need_the_permission_to_read() -> None:
    steps: list[Any] = [("update", ("t", {"a": 1}, {"b": 2}), {"returning": True})]
    written = {"update": lambda params: {"rowCount": 1, "rows": [params["values"]]}}
    assert asked(["data:write", "data:read"], steps, written=written) == [{"rowCount": 1, "rows": [{"a": 1}]}]
    with pytest.raises(PermissionDenied):
        asked(["data:write"], steps, written=written)
