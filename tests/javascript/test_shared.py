"""Several calls at once in one JavaScript engine: each has its own API, lines, timers, failures and end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.shared_realm import PlayedHost, call, reply, serve
from workers import wire

ACTIONS = r"""
const sleep = (ms) => new Promise((go) => setTimeout(go, ms));
const left = [];
let cached = null, resolveLater = null, context = null;
const ACTIONS = {
  plain: (c) => c.given,
  nap: async (c) => { console.log("begin"); await sleep(c.given); console.log("end"); return c.userId },
  ask: async (c) => [await c.api.query("a" + c.given), await plugin.api.query("b" + c.given)],
  // what another call settles goes on as one's own
  cached: async (c) => {
    await 5;
    cached ??= (async () => { const rows = await plugin.api.query("shared"); console.log("loads"); return rows })();
    const rows = await cached;
    await null;
    const both = await Promise.all([cached.then((r) => r.length), plugin.api.query("mine " + c.userId)]);
    for await (const one of [cached]) console.log("goes on");
    await cached.finally(() => console.log("finally"));
    queueMicrotask(() => console.log("microtask"));
    return [rows, both, await plugin.api.query("last " + c.userId)];
  },
  wait: () => new Promise((go) => { resolveLater = go }),
  resolve: () => { resolveLater("by another"); return 1 },
  thrown: async () => { await 1; throw new TypeError("mine") },
  timer: () => new Promise(() => { setTimeout(() => { throw new RangeError("of a timer") }, 1) }),
  rejected: async () => { Promise.reject(new Error("nobody's")); return 1 },
  never: () => new Promise(() => {}),
  retries: async (c) => { for (;;) try { return await c.api.query("x") } catch (e) { left.push(e.code) } },
  leaves: (c) => {
    setInterval(() => left.push("interval"), 1);
    c.api.query("not awaited").then(() => left.push("settled"), (e) => left.push(e.code));
    context = c;
    return 1;
  },
  "uses what was left": async () => {
    await sleep(5);
    try { await context.api.query("stolen") } catch (e) { left.push("late " + e.code) }
    return left;
  },
  left: () => left.length,
  nan: async () => { await 1; return [1, NaN] },
  large: async () => { await 1; const kept = []; for (;;) kept.push(new Uint8Array(1 << 20)) },
  "deep result": async () => { await 1; let a = []; for (let i = 0; i < 5000; i++) a = [a]; return a },
  deep: async (c) => {
    let a = []; for (let i = 0; i < 5000; i++) a = [a];
    try { await c.api.query("q", a) } catch (e) { return e.code }
  },
  games: async (c) => {
    Map.prototype.get = () => ({}); Map.prototype.forEach = () => {}; Array.prototype.push = () => 7;
    Object.prototype.seq = 0; Object.prototype.owner = 0; Object.prototype.over = false;
    Object.prototype.then = undefined;
    return 1;
  },
  "games with then": async (c) => {
    const then = Promise.prototype.then;
    Promise.prototype.then = function (...given) { left.push(c.userId); return then.apply(this, given) };
    Promise.prototype.constructor = function Other() {};
    return 1;
  },
  promises: async (c) => {
    class Mine extends Promise {}
    const p = (async () => 1)();
    return [p instanceof Promise, p.constructor === Promise, Promise.resolve(p) === p,
      new Mine(() => {}).then() instanceof Mine, Promise.name,
      typeof Promise.withResolvers, Object.getPrototypeOf(p) === Promise.prototype,
      await Promise.any([Promise.reject(1), p]), await new Promise((go) => go({ then(f) { f("thenable") } })),
      (() => { try { Promise(() => {}) } catch (e) { return e.name } })()];
  },
};
"""


def asked(host: PlayedHost) -> dict[str, wire.ApiCall]:
    """The API calls by their SQL."""
    import msgspec

    return {msgspec.msgpack.decode(message.params)["sql"]: message for message in host.sent
            if type(message) is wire.ApiCall}


def test_calls_wait_at_once_and_are_answered_as_they_end() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "nap", 500), call(1, "nap", 50), call(2, "plain", "at once"), call(3, "nap", 250)]
        while len(host.said) < 4:
            yield None

    host = serve(ACTIONS, play)
    assert host.begun == [0, 1, 2, 3]
    assert list(host.said.items()) == [(2, "at once"), (1, "user 1"), (3, "user 3"), (0, "user 0")]
    assert host.lines == [(0, "begin"), (1, "begin"), (3, "begin"), (1, "end"), (3, "end"), (0, "end")]


def test_each_api_call_names_its_call_and_replies_may_come_in_any_order() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(n, "ask", n) for n in range(3)]
        for name in "ab":
            yield [reply(asked(host)[f"{name}{n}"].api_id, n) for n in (2, 0, 1)]

    host = serve(ACTIONS, play)
    assert {sql: message.seq for sql, message in asked(host).items()} == {f"{a}{n}": n for a in "ab" for n in range(3)}
    assert host.said == {2: [2, 2], 0: [0, 0], 1: [1, 1]}


def test_code_that_waits_for_another_calls_promise_goes_on_as_its_own_call() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(n, "cached") for n in range(3)]
        yield reply(asked(host)["shared"].api_id, ["row"])
        for sql in ("mine", "last"):
            yield [reply(asked(host)[f"{sql} user {n}"].api_id, n) for n in (1, 2, 0)]

    host = serve(ACTIONS, play)
    assert asked(host)["shared"].seq == 0
    for n in range(3):
        assert asked(host)[f"mine user {n}"].seq == asked(host)[f"last user {n}"].seq == n
        assert host.said[n] == [["row"], [1, n], n]
        assert [text for seq, text in host.lines if seq == n] == [
            *(["loads"] if n == 0 else []), "goes on", "finally", "microtask"]


def test_a_call_may_settle_what_another_waits_for() -> None:
    host = serve(ACTIONS, lambda _: iter([[call(0, "wait"), call(1, "nap", 1), call(2, "resolve")], None, None]))
    assert host.said == {0: "by another", 1: "user 1", 2: 1}


def test_failures_are_their_calls_own() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "nap", 30), call(1, "thrown"), call(2, "timer"), call(3, "nan"), call(4, "deep"),
               call(5, "rejected"), call(7, "deep result"),
               wire.Call(6, "onActionExecute", "u", call(0, "").deadline_ns, 0, b"\xc1")]  # type: ignore[arg-type]  # Raw on the wire
        while len(host.said) < 8:
            yield None

    host = serve(ACTIONS, play)
    assert [host.said[n].exception for n in (1, 2)] == ["TypeError", "RangeError"]
    assert (type(host.said[3]), host.said[3].path) == (wire.BadOutput, "$[1]")
    assert host.said[4] == "invalid_output" and host.said[0] == "user 0" and type(host.said[6]) is wire.BadInput
    assert type(host.said[7]) is wire.BadOutput and "nested" in host.said[7].message
    assert [seq for seq, text in host.lines if "rejected and nobody" in text] == [5]


def test_what_nobody_will_settle_fails_when_nothing_else_can_happen() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "never"), call(1, "nap", 5)]
        assert host.said == {}, "the other call could still settle it"
        while not host.said:
            yield None

    host = serve(ACTIONS, play)
    assert host.said[1] == "user 1" and "never settled" in host.said[0].message


def test_one_of_many_is_cancelled_and_the_others_go_on() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(n, "ask", n) for n in range(32)]
        yield [wire.Cancel(7, 1)]
        assert list(host.said) == [7]
        yield [reply(asked(host)[f"a{n}"].api_id, n) for n in range(32)]  # also the cancelled one's
        yield [reply(asked(host)[f"b{n}"].api_id, n) for n in range(32) if n != 7]

    host = serve(ACTIONS, play)
    assert type(host.said.pop(7)) is wire.Ended and wire.Pong(1) in host.sent
    assert host.said == {n: [n, n] for n in range(32) if n != 7} and "b7" not in asked(host)


def test_a_cancel_is_heard_before_calls_that_arrived_earlier_begin() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "nap", 3)]
        yield [call(1, "nap", 1), call(2, "plain", 2), wire.Cancel(0, 5), wire.Cancel(1, 0), wire.Cancel(9, 6),
               wire.Ping(8)]
        assert host.sent[:3] == [wire.Pong(5), wire.Pong(6), wire.Pong(8)] and list(host.said)[0] == 0

    host = serve(ACTIONS, play)
    assert type(host.said[0]) is wire.Ended and type(host.said[1]) is wire.Skipped and host.said[2] == 2
    assert host.begun == [0, 1, 2], "what is skipped has its turn"


def test_a_cancelled_call_that_tries_again_and_again_ends() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "retries"), call(1, "nap", 1)]
        yield wire.Cancel(0, 1)
        yield call(2, "left")
        while len(host.said) < 3:
            yield None

    host = serve(ACTIONS, play)
    assert type(host.said[0]) is wire.Ended and host.said[1] == "user 1" and host.said[2] == 101


def test_what_an_ended_call_left_behind_is_refused_and_touches_no_other() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "nap", 20), call(1, "leaves"), call(2, "uses what was left")]
        yield reply(asked(host)["not awaited"].api_id, 1)
        while len(host.said) < 3:
            yield None

    host = serve(ACTIONS, play)
    assert host.said == {1: 1, 2: ["cancelled", "late cancelled"], 0: "user 0"}
    assert list(asked(host)) == ["not awaited"] and asked(host)["not awaited"].seq == 1


def test_memory_that_one_call_fills_is_that_calls_end() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "nap", 60), call(1, "large"), call(2, "plain", 3)]
        while len(host.said) < 3:
            yield None

    host = serve(ACTIONS, play, memory_bytes_max=24 << 20)
    assert host.said[1].memory and host.said[0] == "user 0" and host.said[2] == 3


def test_prototype_games_reach_no_other_calls_context() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "ask", 0), call(1, "games"), call(2, "ask", 2)]
        for name in "ab":
            yield [reply(asked(host)[f"{name}{n}"].api_id, n) for n in (2, 0)]
        yield [call(3, "plain", 4), wire.Cancel(0, 3)]

    host = serve(ACTIONS, play)
    assert {sql: message.seq for sql, message in asked(host).items()} == {"a0": 0, "a2": 2, "b0": 0, "b2": 2}
    assert host.said[0] == [0, 0] and host.said[2] == [2, 2] and host.said[3] == 4


def test_a_then_of_the_plugins_own_sees_every_call_and_acts_for_none_of_them() -> None:
    def play(host: PlayedHost) -> Iterator[Any]:
        yield [call(0, "ask", 0), call(1, "games with then"), call(2, "ask", 2)]
        for name in "ab":
            yield [reply(asked(host)[f"{name}{n}"].api_id, n) for n in (2, 0)]
        yield call(3, "left")

    host = serve(ACTIONS, play)
    assert {sql: message.seq for sql, message in asked(host).items()} == {"a0": 0, "a2": 2, "b0": 0, "b2": 2}
    assert host.said[0] == [0, 0] and host.said[2] == [2, 2] and host.said[3] > 0


@pytest.mark.fast
def test_promises_are_the_languages_own_to_a_plugin() -> None:
    host = serve(ACTIONS, lambda _: iter([call(0, "promises"), None]))
    assert host.said[0] == [True, True, True, True, "Promise", "function", True, 1, "thenable", "TypeError"]
