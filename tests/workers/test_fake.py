"""FakePlatform answers as the gateway would, and runs several calls at once, so that an author's test finds what goes
wrong between them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from workers import PermissionDenied, Plugin
from workers.fake import FakePlatform

SQL = "SELECT id FROM orders"
plugin = Plugin(id="p", version="1.0.0", permissions=["data:read", "events:emit"])
state: dict[str, Any] = {}
order: list[str] = []


@plugin.hook("racy")
async def racy(context: Any) -> int:
    state["user"] = context.user_id  # as many modules do it
    rows = await context.api.query(SQL)
    await context.api.emit("seen", {"user": state["user"], "rows": rows})
    return len(rows)


@plugin.hook("safe")
async def safe(context: Any, params: Any) -> int:
    order.append(f"{params['name']} begins")
    rows = await context.api.query(SQL)
    context.api.emit("not awaited")
    order.append(f"{params['name']} ends")
    assert rows == [{"of": context.user_id}]
    return int(params["name"])


@plugin.hook("plain")
def plain(context: Any) -> str:
    order.append("plain")
    context.api.query(SQL)
    return str(context.user_id)


@plugin.hook("stuck")
async def stuck() -> None:
    await asyncio.Event().wait()


@plugin.hook("refused")
async def refused(context: Any) -> None:
    await context.api.insert("orders", {})


def platform() -> FakePlatform:
    state.clear()
    order.clear()
    return FakePlatform(plugin, rows={SQL: lambda user: [{"of": user}]})


def seen(seed: int) -> list[tuple[str, str]]:
    """(whose call it was, whose it said it was) of every emit."""
    made = platform()
    made.run_together([("racy", {})] * 4, seed=seed)
    return [(user, params["payload"]["user"]) for user, method, params in made.asked_by if method == "emit"]


def test_a_race_between_calls_is_found_and_is_the_same_for_the_same_seed() -> None:
    assert any(whose != said for whose, said in seen(1)) and seen(1) == seen(1)
    assert len({tuple(whose for whose, _ in seen(seed)) for seed in range(20)}) > 5, "answers come in many orders"


def test_calls_take_turns_and_each_has_its_own_user() -> None:
    made = platform()
    assert made.run_together([("safe", {"name": n}) for n in range(8)]) == list(range(8))
    assert [line for line in order if "begins" in line] == [f"{n} begins" for n in range(8)]
    assert order != sorted(order), "they take turns"
    assert len({user for user, _, _ in made.asked_by}) == 8 and len(made.effects) == 8


def test_calls_of_one_user_follow_each_other_and_a_plain_hook_runs_alone() -> None:
    made = platform()
    results = made.run_together([("safe", {"name": 0}, "u"), ("safe", {"name": 1}, "u"), ("safe", {"name": 2}),
                                 ("plain",), ("safe", {"name": 3})])
    assert results[:3] == [0, 1, 2] and results[4] == 3
    assert order.index("0 ends") < order.index("1 begins") and order.index("2 begins") < order.index("0 ends")
    assert order[-3:] == ["plain", "3 begins", "3 ends"]
    platform().run_together([("safe", {"name": n}) for n in range(3)], concurrency=1)
    assert order == [f"{n} {word}" for n in range(3) for word in ("begins", "ends")]


def test_what_fails_says_which_call_and_which_seed() -> None:
    with pytest.raises(Exception, match="data:write") as caught:
        platform().run_together([("safe", {"name": 0}), ("refused",)], seed=7)
    assert caught.value.__notes__ == [
        "in call 1 of run_together(…, seed=7): refused of user 11111111-2222-4333-8444-555555555556"]
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        platform().run_together([("safe", {"name": 0}), ("stuck",)], timeout_ms=50)
    assert time.monotonic() - begun < 10


def asked(permissions: list[str], steps: list[tuple[str, tuple[Any, ...], dict[str, Any]]], **more: Any) -> list[Any]:
    plugin = Plugin(id="p", version="1.0.0", permissions=permissions)

    @plugin.hook("onActionExecute")
    def act(context: Any) -> Any:
        return [getattr(context.api, method)(*args, **named) for method, args, named in steps]

    answers: list[Any] = FakePlatform(plugin, **more).call("onActionExecute", {"action": "x", "context": {}})
    return answers


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
