"""What the API's methods send in JavaScript: the same parameters as in Python."""

from __future__ import annotations

from typing import Any

from tests.support.realms import run


def test_writes_send_what_the_python_sdk_sends() -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def answer(method: str, params: dict[str, Any]) -> Any:
        asked.append((method, params))
        return {"rowCount": 1}

    assert run("""
        const api = plugin.api;
        await api.insert("t", { a: 1 });
        await api.insert("t", [{ a: 1 }, { a: 2 }], { returning: ["a"] });
        await api.upsert("t", { a: 1 }, { on: "a" });
        await api.upsert("t", [{ a: 1 }], { on: ["a", "b"], update: [], returning: true });
        await api.update("t", { a: 1 }, { b: 2 }, { returning: true });
        return (await api.delete("t", { b: 2 }, { returning: false })).rowCount""", answer=answer) == 1
    assert asked == [
        ("insert", {"table": "t", "values": {"a": 1}}),
        ("insert", {"table": "t", "values": [{"a": 1}, {"a": 2}], "returning": ["a"]}),
        ("upsert", {"table": "t", "values": {"a": 1}, "on": "a"}),
        ("upsert", {"table": "t", "values": [{"a": 1}], "on": ["a", "b"], "update": [], "returning": True}),
        ("update", {"table": "t", "values": {"a": 1}, "where": {"b": 2}, "returning": True}),
        ("delete", {"table": "t", "where": {"b": 2}, "returning": False})]
