"""What a hook in JavaScript is given, may do and may return: in a real worker behind the daemon."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import CallError, Client
from tests.support.daemon import Daemon
from tests.support.host import Host
from tests.support.javascript import write_actions

USER, OTHER = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"
MS = 60_000
"""Long, since the machine that runs the tests may be busy; what never ends has a deadline of its own."""
PERMISSIONS = ("data:read", "ui:render", "events:emit")
ACTIONS = {
    # the context
    "keys": "(c) => [Object.keys(c).sort(), c.userId, c.pluginId, c.hook, c.params === c.params, plugin.id, plugin.version]",
    "shadow": """(c) => [typeof c.api.emit, typeof c.log.info, typeof c.remainingMs, c.userId, c.pluginId,
      Object.getPrototypeOf(c) === Object.prototype, c.constructor === Object, c.hook, String({}.evil),
      c.params.api, c.params.constructor]""",
    "remaining": "(c) => c.remainingMs() > 0 && c.remainingMs() <= 60000",
    "plain": "(c) => c.context.value",
    "is this": "function () { return this === ACTIONS }",
    # the API
    "all": "async (c) => Promise.all([c.api.query('SELECT id, total FROM orders ORDER BY id'), plugin.api.query('SELECT id FROM orders WHERE total > $1', [15])])",
    "three": """async () => { const rows = await plugin.api.query('SELECT id FROM orders WHERE id = $1', [1]);
      await plugin.api.renderWidget({ component: "CustomChart", props: { rows } });
      await plugin.api.emit("custom-event", { payload: rows }); return rows.length }""",
    "twenty": "async (c) => (await Promise.all(Array.from({ length: 20 }, (_, i) => c.api.emit('e' + i, i)))).length",
    "not awaited": "(c) => { for (let i = 0; i < 20; i++) c.api.emit('n' + i, i); return 'done' }",
    "refused": "async (c) => { await c.api.insert('orders', { id: 9 }) }",
    "caught": """async (c) => { try { await c.api.insert('orders', { id: 9 }) } catch (e) {
      return [e.name, e.code, e.method, e instanceof plugin.errors.PermissionDenied, e instanceof Error] } }""",
    "bad effect": "async (c) => { await c.api.emit('e', { a: [NaN] }) }",
    "far effect": "async (c) => { try { await c.api.emit('e', { a: new Date(8.64e15) }) } catch (e) { return [e.code, e.message] } }",
    "leave": "(c) => { globalThis.left = c.api; setTimeout(() => { globalThis.fired = true }, 20); return 1 }",
    "left": """async () => { await new Promise((r) => setTimeout(r, 60)); const fired = String(globalThis.fired);
      try { await left.query('SELECT 1') } catch (e) { return [fired, e.code] } return 'leaked' }""",
    "leave finalizers": """(c) => { const f = globalThis.registry = new FinalizationRegistry(() => { throw new Error('mine') });
      for (let i = 0; i < 1000; i++) f.register({}, i); return 1 }""",
    "leave acting finalizers": """(c) => { const held = {}, asked = {}, mine = (word) => plugin.api.emit(word, c.userId)
        .then(() => left.push('acted'), (e) => left.push(e.code));
      globalThis.left = []; globalThis.registry = new FinalizationRegistry(mine); registry.register(held, 'of a timer');
      registry.register(asked, 'of a call'); setTimeout(() => held, 1e6); c.api.emit('mine', 1).then(() => asked); return 1 }""",
    "leave a circle": """(c) => { globalThis.left = []; globalThis.registry = new FinalizationRegistry(
        () => plugin.api.emit('of a circle', c.userId).catch((e) => left.push(e.code)));
      const circle = {}; circle.self = circle; registry.register(circle, 1); return 1 }""",
    "collect": "async () => { for (let i = 0; i < 50_000; i++) { const circle = {}; circle.self = circle } await null; return 1 }",
    "what is left": "() => left",
    "leave hostile finalizers": """(c) => { const held = [{}, {}, {}]; globalThis.registry = new FinalizationRegistry((e) => { throw e });
      [null, new Error('out of memory'), new InternalError('out of memory')].forEach((e, i) => registry.register(held[i], e));
      setTimeout(() => held, 1e6); return 1 }""",
    "poll": """async (c) => { let answer; c.api.query('SELECT id FROM orders').then((rows) => { answer = rows.length });
      for (let i = 0; i < 5000 && answer === undefined; i++) await new Promise((r) => setTimeout(r, 0)); return answer }""",
    # promises and errors
    "timers": """async () => { const seen = []; setTimeout(() => seen.push('b'), 20); setTimeout(() => seen.push('a'), 5);
      const t = setInterval(() => { seen.push('i'); clearInterval(t) }, 10); clearTimeout(setTimeout(() => seen.push('never'), 1));
      await new Promise((r) => setTimeout(r, 40)); return seen }""",
    "thenable": "() => ({ then(f) { f({ late: 1 }) } })",
    "never": "() => new Promise(() => {})",
    "throws": "() => { null.x }",
    "throws later": "async () => { await null; throw new RangeError('late', { cause: new Error('first') }) }",
    "throws text": "() => { throw 'only text' }",
    "throws in a microtask": "() => { queueMicrotask(() => { throw new Error('in a microtask') }); return new Promise(() => {}) }",
    "deep effect": """async (c) => { let a = 1; for (let i = 0; i < 2000; i++) a = [a];
      try { await c.api.emit('e', a) } catch (e) { return e.code } }""",
    "throws in a timer": "() => { setTimeout(() => { throw new Error('in a timer') }, 1); return new Promise(() => {}) }",
    "hostile error": "() => { throw Object.defineProperty(new Error('x'), 'message', { get() { throw 1 } }) }",
    "overflow": "() => { const f = () => f() + 1; return f() }",
    "spin": "() => { for (;;); }",
    "regex": "() => /^(a+)+$/.test('a'.repeat(40) + 'b')",
    # Each microtask returns nothing: a promise that waits for the next would grow a chain until the memory limit.
    "microtasks": "() => { const f = () => { Promise.resolve().then(f) }; f(); return new Promise(() => {}) }",
    "memory": "() => { const a = []; for (;;) a.push({ a: [1] }) }",
    "memory in a promise": "async () => { await null; const a = []; for (;;) a.push([1, 2, 3]) }",
    "memory in text": "() => { const a = []; for (;;) a.push('x'.repeat(100_000) + a.length) }",
    "null": "() => { throw null }",
    "console": "(c) => { console.log('%s is %d', 'one', 1, { a: [new Map([[1, 2]])] }); c.log.warn('w'); console.error('lone \\ud800'); return 1 }",
    # values
    "values": "(c) => c.context",
    "kinds": "(c) => [c.context.when instanceof Date, c.context.when.toISOString(), c.context.raw instanceof Uint8Array, [...c.context.raw], Object.keys(c.context.mark), c.context.raw.length]",
    "prototypes": """() => { if (globalThis.done) return 'served'; globalThis.done = true; Promise.prototype.then = null; Function.prototype.call = Function.prototype.apply = null;
      Array.prototype[Symbol.iterator] = null; Map.prototype.get = null; JSON.stringify = null; JSON.parse = null; String.prototype.split = null;
      String.prototype.includes = null; Object.keys = null; Reflect.apply = null; globalThis.Promise = globalThis.Map = null; return 'served' }""",
    "toJSON": "() => { Array.prototype.toJSON = Object.prototype.toJSON = () => 'no'; return 1 }",
    "setter": "() => { Object.defineProperty(Array.prototype, 0, { set() { throw new Error('set') } }); return 1 }",
}
RETURNS = {
    "NaN": ("NaN", "$.result"), "NaN within": ("{ a: [1, { b: NaN }] }", "$.result.a[1].b"), "Infinity": ("[1 / 0]", "$.result[0]"),
    "undefined in an array": ("[1, undefined]", "$.result[1]"), "a hole": ("[1, , 3]", "$.result[1]"),
    "BigInt": ("{ n: 2n ** 60n }", "$.result.n"), "bad Date": ("[new Date(NaN)]", "$.result[0]"),
    "far Date": ("{ a: [new Date(8.64e15)] }", "$.result.a[0]"), "Map": ("{ a: new Map([[1, 2]]) }", "$.result.a"),
    "Set": ("[new Set([1])]", "$.result[0]"), "RegExp": ("[/x/]", "$.result[0]"), "Error": ("[new Error('q')]", "$.result[0]"),
    "Promise": ("[Promise.resolve(1)]", "$.result[0]"), "function": ("{ a() {} }", "$.result.a"),
    "symbol": ("[Symbol('x')]", "$.result[0]"), "surrogate": ("{ a: ['\\ud800'] }", "$.result.a[0]"),
    "surrogate key": ("{ '\\ud800': 1 }", "$.result"), "circle": ("(() => { const a = {}; a.a = a; return a })()", "$.result.a.a"),
    "70 levels": ("(() => { let a = 1; for (let i = 0; i < 70; i++) a = [a]; return a })()", "$.result[0][0]"),
    "5000 levels": ("(() => { let a = 1; for (let i = 0; i < 5000; i++) a = [a]; return a })()", "$"),
    "Number object": ("[new Number(NaN)]", "$.result[0]"), "iterator": ("{ a: new Map([[1, 2]]).values() }", "$.result.a"),
    "generator": ("[(function* () { yield 1 })()]", "$.result[0]"), "Response": ("{ a: new Response('x') }", "$.result.a"),
    "WeakRef": ("[new WeakRef({})]", "$.result[0]"), "shared bytes": ("[new SharedArrayBuffer(2)]", "$.result[0]"),
    "toJSON of a Map": ("{ a: { toJSON() { return new Map([[1, 2]]) } } }", "$.result.a"),
    "toJSON of a Date": ("[{ toJSON() { return new Date(0) } }]", "$.result[0]"),
    "toJSON of a BigInt": ("[{ toJSON() { return 5n } }]", "$.result[0]"),
    "toJSON of nothing": ("[{ toJSON() {} }]", "$.result[0]"),
    "a Map after a getter that calls": ("{ get a() { plugin.api.emit('e', 1); return 1 }, m: new Map([[1, 2]]) }", "$.result.m"),
    "too large": ("'x'.repeat(1_100_000)", "$"),
}
FINE: dict[str, tuple[str, Any]] = {
    "a property that is undefined": ("{ a: undefined, b: 1 }", {"b": 1}), "small BigInt": ("5n", 5),
    "bytes": ("new Uint8Array([1, 2])", b"\x01\x02"), "a view": ("new Uint8Array([1, 2, 3]).subarray(1)", b"\x02\x03"),
    "Date": ("new Date(0)", datetime(1970, 1, 1, tzinfo=UTC)), "large": ("[2 ** 53, 1e20, -1e21]", [2.0**53, 1e20, -1e21]),
    "safe": ("[2 ** 53 - 1, -0, 1.5]", [2**53 - 1, 0, 1.5]), "class": ("new (class A { x = 1; get y() { return 2 } })()", {"x": 1}),
    "toJSON": ("{ toJSON() { return { z: 1 } } }", {"z": 1}), "nulls": ("[null, { a: null }]", [None, {"a": None}]),
    "JSON within": ("{ toJSON() { return JSON.stringify([new Date(0), new Map(), { a: 1 }]) } }",
                    '["1970-01-01T00:00:00.000Z",{},{"a":1}]'),
    "a Date's text": ("{ get a() { return new Date(0).toJSON() } }", {"a": "1970-01-01T00:00:00.000Z"}),
    "a Date after a getter that calls": ("{ get a() { plugin.api.emit('e', 1); return 1 }, d: new Date(0) }",
                                         {"a": 1, "d": datetime(1970, 1, 1, tzinfo=UTC)}),
    "objects of primitives": ("[new String('x'), new Boolean(false), new Number(5), null]", ["x", False, 5, None]),
    "a key in brackets": ("new (class A { a = null; ['x[]'] = undefined })()", {"a": None}),
    "a symbol": ("{ a: Symbol('x'), b: null }", {"b": None}), "empty": ("{ a: {}, b: [{}] }", {"a": {}, "b": [{}]}),
    "toJSON of itself": ("new (class A { a = null; toJSON() { return this } })()", {"a": None}),
    "NUL": ("'a\\0b'", "a\x00b"), "a rope": ("['x', 1].join('') + 'é'.repeat(3) + '…'", "x1ééé…"), "proxy": ("new Proxy({ a: 1 }, {})", {"a": 1}),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="apx"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[Daemon]:
    with sqlite3.connect(folder / "data.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER, user_id TEXT, total INTEGER)")
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)", [(1, USER, 10), (2, USER, 20), (3, OTHER, 30)])
    database.close()
    actions = ACTIONS | {f"return {name}": f"() => ({code})" for name, (code, _) in (RETURNS | FINE).items()}
    for name in ("acts", "prototypes", "breaks"):
        write_actions(folder / "plugins", name, actions, permissions=PERMISSIONS, data={"tables": ["orders"]})
    with Daemon(folder / "d", folder / "plugins", {
            "data.url": f"sqlite:///{folder}/data.db", "breaker.ends": 100, "limits.timeout_ms": MS, "ui.components": ["CustomChart"],
            "data.tables": {"orders": {"owner": "user_id", "columns": ["id", "total"]}}}) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.endpoint) as made:
        yield made


def reply(client: Client, action: str, context: Any = None, plugin: str = "acts", ms: int = MS, **more: Any) -> dict[str, Any]:
    got: dict[str, Any] = client.invoke(plugin, "onActionExecute", USER, {"action": action, "context": context or {}, **more}, ms)
    return got


def run(client: Client, action: str, context: Any = None, **more: Any) -> Any:
    return reply(client, action, context, **more)["result"]["result"]


def failure(client: Client, action: str, **more: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        run(client, action, **more)
    return caught.value


# ------------------------------------------------------------------ the context
def test_the_context_is_the_parameters_and_what_the_sdk_puts_there(client: Client) -> None:
    keys = ["action", "api", "context", "hook", "log", "params", "pluginId", "remainingMs", "settings", "userId"]
    assert run(client, "keys") == [keys, USER, "acts", "onActionExecute", True, "acts", "1.0.0"]
    assert run(client, "remaining") is True
    assert run(client, "is this") is True


def test_no_key_of_a_payload_shadows_or_replaces_what_the_sdk_puts_there(client: Client) -> None:
    taken = {"api": "a", "log": 1, "remainingMs": 2, "userId": OTHER, "pluginId": "x", "hook": "y", "constructor": "c",
             "params": 3}
    got = run(client, "shadow", **taken)
    assert got == ["function", "function", "function", USER, "acts", True, True, "onActionExecute", "undefined", "a", "c"]


# ------------------------------------------------------------------ the API
def test_awaited_calls_run_side_by_side_and_see_the_callers_rows_only(client: Client) -> None:
    assert run(client, "all") == [[{"id": 1, "total": 10}, {"id": 2, "total": 20}], [{"id": 2}]]


def test_the_documents_three_calls_do_what_the_document_says(client: Client) -> None:
    got = reply(client, "three")
    assert got["result"]["result"] == 1 and got["effects"] == [
        {"kind": "render", "component": "CustomChart", "props": {"rows": [{"id": 1}]}},
        {"kind": "emit", "event": "acts/custom-event", "payload": [{"id": 1}]}]


@pytest.mark.parametrize("action", ["twenty", "not awaited"])
def test_more_calls_than_may_be_open_at_once_wait_and_none_is_lost(client: Client, action: str) -> None:
    effects = reply(client, action)["effects"]
    assert [effect["payload"] for effect in effects] == list(range(20))


def test_a_refused_call_is_an_error_with_a_code_and_the_plugins_place(client: Client) -> None:
    assert run(client, "caught") == ["PermissionDenied", "permission_denied", "insert", True, True]
    error = failure(client, "refused")
    assert error.code == "PERMISSION_DENIED" and error.details["method"] == "insert"
    assert "acts/index.js:" in error.details["traceback"] and "apex:" not in error.details["traceback"]


def test_an_effect_that_cannot_be_carried_says_where(client: Client) -> None:
    error = failure(client, "bad effect")
    assert error.code == "INVALID_OUTPUT" and error.details["path"] == "$.payload.a[0]"
    assert run(client, "far effect")[0] == "invalid_output"
    assert run(client, "deep effect") == "invalid_output"


def test_what_a_call_left_behind_is_gone_before_the_next(client: Client) -> None:
    run(client, "leave")
    assert run(client, "left") == ["undefined", "cancelled"]


def test_no_finalizer_of_an_earlier_call_acts_in_a_later_calls_name(client: Client) -> None:
    run(client, "leave acting finalizers")
    later = reply(client, "what is left")
    assert later["effects"] == [] and later["result"]["result"] == ["cancelled", "cancelled"]
    run(client, "leave a circle")
    assert [reply(client, "collect")["effects"] for _ in range(3)] == [[]] * 3
    assert run(client, "what is left") == ["cancelled"]


def test_what_a_finalizer_throws_fails_no_later_call(client: Client) -> None:
    run(client, "leave hostile finalizers")
    assert [run(client, "plain", {"value": number}) for number in range(3)] == [0, 1, 2]


def test_a_reply_that_has_arrived_comes_before_timers_that_follow_each_other(client: Client) -> None:
    assert run(client, "poll") == 2


# ------------------------------------------------------------------ promises and errors
def test_a_finalizer_that_a_call_left_behind_fails_no_later_call(client: Client) -> None:
    assert run(client, "leave finalizers") == 1
    for number in range(20):
        assert run(client, "plain", {"value": number}) == number


def test_timers_fire_in_their_order(client: Client) -> None:
    assert run(client, "timers") == ["a", "i", "b"]
    assert run(client, "thenable") == {"late": 1}


def test_a_promise_that_nothing_can_settle_is_an_error_that_says_so(client: Client) -> None:
    error = failure(client, "never")
    assert error.code == "PLUGIN_ERROR" and "never settled" in error.message


@pytest.mark.parametrize(("action", "name", "text"), [
    ("throws", "TypeError", "null"), ("throws later", "RangeError", "late"), ("throws text", "Error", "only text"),
    ("throws in a timer", "Error", "in a timer"), ("throws in a microtask", "Error", "in a microtask"), ("overflow", "RangeError", "call stack"),
    ("hostile error", "Error", "unavailable")])
def test_what_a_hook_throws_is_told_with_its_place_in_the_source(client: Client, action: str, name: str, text: str) -> None:
    error = failure(client, action)
    assert error.code == "PLUGIN_ERROR" and name in str(error.details) and text in error.message
    trace = error.details.get("traceback", "")
    assert "apex:" not in trace and "native" not in trace
    if action in ("throws", "throws later", "overflow"):
        line = next(i for i, line in enumerate(_source().splitlines(), 1) if f'"{action}"' in line)
        assert f"acts/index.js:{line}:" in trace
    if action == "throws later":
        assert "Caused by: Error: first" in trace
    assert run(client, "plain", {"value": 1}) == 1


def _source() -> str:
    with tempfile.TemporaryDirectory() as name:
        actions = ACTIONS | {f"return {key}": f"() => ({code})" for key, (code, _) in (RETURNS | FINE).items()}
        return (write_actions(Path(name), "acts", actions, permissions=PERMISSIONS) / "index.js").read_text()


@pytest.mark.parametrize("action", ["spin", "regex", "microtasks"])
def test_what_never_ends_is_a_timeout(client: Client, daemon: Daemon, action: str) -> None:
    with Host(daemon.endpoint) as host:
        late = host.ask({"type": "invoke", "plugin": "acts", "action": "onActionExecute", "userId": USER,
                         "deadlineMs": 1000, "payload": {"action": action, "context": {}}}, 60)
    assert late["code"] == "TIMEOUT"
    assert run(client, "plain", {"value": 2}) == 2


@pytest.mark.parametrize("action", ["memory", "memory in a promise", "memory in text", "null"])
def test_a_call_without_memory_says_so_and_the_worker_lives_on(client: Client, daemon: Daemon, action: str) -> None:
    assert run(client, "plain", {"value": 3}) == 3
    before = daemon.pids("acts")
    assert failure(client, action, ms=MS).code == "MEMORY_LIMIT"
    assert run(client, "plain", {"value": 4}) == 4
    assert daemon.pids("acts") == before


def test_the_console_is_the_plugins_log(client: Client, daemon: Daemon) -> None:
    run(client, "console")
    daemon.wait_told("acts", "one is 1 { a: [ Map { 1 => 2 } ] }")
    daemon.wait_told("acts", "lone \ufffd")


def test_a_plugin_that_changes_every_prototype_is_still_served(client: Client) -> None:
    for _ in range(3):
        assert run(client, "prototypes", plugin="prototypes") == "served"
    assert run(client, "three", plugin="prototypes") == 1
    error = failure(client, "throws", plugin="prototypes")
    assert error.code == "PLUGIN_ERROR" and "prototypes/index.js:" in error.details["traceback"]


@pytest.mark.parametrize("action", ["toJSON", "setter"])
def test_a_plugin_that_breaks_json_for_itself_is_answered_by_the_same_worker(client: Client, daemon: Daemon,
                                                                            action: str) -> None:
    codes, pids = set(), set()
    for _ in range(2):
        codes.add(failure(client, action, plugin="breaks").code)
        pids.update(daemon.pids("breaks"))
    assert codes <= {"INVALID_OUTPUT", "PLUGIN_ERROR"} and len(pids) == 1


# ------------------------------------------------------------------ values
@pytest.mark.parametrize("name", RETURNS)
def test_a_result_off_the_rule_is_refused_with_its_place(client: Client, name: str) -> None:
    error = failure(client, f"return {name}")
    assert error.code == "INVALID_OUTPUT" and error.details["path"].startswith(RETURNS[name][1]), error.reply


@pytest.mark.parametrize("name", FINE)
def test_a_result_arrives_as_it_was_meant(client: Client, name: str) -> None:
    got = run(client, f"return {name}")
    assert got == FINE[name][1] and type(got) is type(FINE[name][1])


def test_bytes_and_timestamps_arrive_as_such_and_no_payload_forges_one(client: Client) -> None:
    context = {"when": datetime(2020, 1, 2, tzinfo=UTC), "raw": b"\x00\xff", "mark": {"\0b": "AAAA"}}
    assert run(client, "kinds", context) == [True, "2020-01-02T00:00:00.000Z", True, [0, 255], ["\0b"], 2]
    assert run(client, "values", context) == context
    deep: Any = "end"
    for _ in range(50):
        deep = [deep, {"é": None, "n": 2**53 - 1}]
    assert run(client, "values", {"deep": deep, "text": "x\u2028\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")})["deep"] == deep
