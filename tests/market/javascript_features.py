"""Test files in JavaScript that pass under Node and, unchanged, in the jail: one for each part of ``node:test`` and
``node:assert`` that plugins' tests use. Each prints nothing; what it says is asserted in itself."""

HEAD = '''import assert from "node:assert/strict";
import test, { after, afterEach, before, beforeEach, describe, it, mock, suite } from "node:test";
'''
HOOKS = '''const seen = [];
before(() => { seen.push("before") });
beforeEach((t) => { seen.push("each " + t.name) });
afterEach(async () => { await null; seen.push("end") });
test("first", () => { seen.push("first") });
describe("suite", () => {
  before(async () => { await null; seen.push("inner before") });
  after(() => { seen.push("inner after") });
  beforeEach(() => { seen.push("inner each") });
  afterEach(() => { seen.push("inner end") });
  it("second", async (t) => {
    t.after(() => { seen.push("own after") });
    await null;
    seen.push("second");
  });
  suite("deeper", () => { it("third", (t, done) => { setTimeout(() => { seen.push("third"); done() }, 1) }) });
});
test("order", () => {
  assert.deepEqual(seen, [
    "before", "each first", "first", "end",
    "inner before", "each second", "inner each", "second", "inner end", "end", "own after",
    "each third", "inner each", "third", "inner end", "end", "inner after", "each order"]);
});
'''
SUBTESTS = '''test("parent", async (t) => {
  const seen = [];
  t.beforeEach(() => { seen.push("each") });
  t.afterEach(() => { seen.push("end") });
  await t.test("one", () => { seen.push(1) });
  await t.test("two", async (u) => { await u.test("inner", () => { seen.push("inner") }); seen.push(2) });
  await t.test("left", { skip: true }, () => { seen.push("never") });
  await t.test("later", { todo: true }, () => { throw new Error("not yet") });
  assert.deepEqual(seen, ["each", 1, "end", "each", "each", "inner", "end", 2, "end", "each", "end"]
    .slice(0, seen.length));
  assert.ok(seen.includes("inner") && !seen.includes("never"));
  assert.equal(t.name, "parent");
});
test("by the function", async () => {
  let ran = 0;
  await test("inside", () => { ran++ });
  assert.equal(ran, 1);
});
for (const [a, b, sum] of [[1, 1, 2], [2, 3, 5], [-1, 1, 0]])
  test(`${a} + ${b}`, () => { assert.equal(a + b, sum) });
'''
LEFT_OUT = '''const seen = [];
test.skip("skipped", () => { seen.push("skip") });
test("by option", { skip: "why" }, () => { seen.push("option") });
test("half", (t) => { seen.push("half"); t.skip("the rest") });
test.todo("without a function");
test.todo("fails", () => { seen.push("todo"); throw new Error("not yet") });
it("by option", { todo: true }, () => { throw new Error("not yet") });
describe.skip("suite", () => { it("in it", () => { seen.push("suite") }) });
test.only("only", () => { seen.push("only") });
test("beside only", { only: false }, () => { seen.push("beside") });
test("what ran", () => { assert.deepEqual(seen, ["half", "todo", "only", "beside"]) });
'''
MOCKS = '''test("mock.fn", () => {
  const add = mock.fn((a, b) => a + b);
  assert.equal(add(1, 2), 3);
  assert.equal(add.mock.callCount(), 1);
  const [call] = add.mock.calls;
  assert.deepEqual(call.arguments, [1, 2]);
  assert.equal(call.result, 3);
  assert.equal(call.error, undefined);
  assert.equal(add.length, 2);
  add.mock.mockImplementation(() => "new");
  add.mock.mockImplementationOnce(() => { throw new RangeError("once") });
  assert.throws(() => add(), RangeError);
  assert.equal(add.mock.calls[1].error.message, "once");
  assert.equal(add(), "new");
  add.mock.restore();
  assert.equal(add(2, 2), 4);
  add.mock.resetCalls();
  assert.equal(add.mock.callCount(), 0);
  const twice = mock.fn(() => "real", () => "mock", { times: 2 });
  assert.deepEqual([twice(), twice(), twice()], ["mock", "mock", "real"]);
  const Made = mock.fn(class A { constructor(x) { this.x = x } });
  assert.equal(new Made(4).x, 4);
  assert.equal(typeof Made.mock.calls[0].target, "function");
  assert.equal(mock.fn()(), undefined);
});
test("mock.method", (t) => {
  const wallet = { sum: 5, take(n) { return this.sum -= n }, get empty() { return this.sum === 0 }, set all(n) { this.sum = n } };
  const take = t.mock.method(wallet, "take", function (n) { return n * this.sum });
  assert.equal(wallet.take(2), 10);
  assert.equal(take.mock.calls[0].this, wallet);
  take.mock.restore();
  assert.equal(wallet.take(2), 3);
  const spied = t.mock.method(wallet, "take");
  wallet.take(1);
  assert.equal(spied.mock.calls[0].result, 2);
  t.mock.getter(wallet, "empty", () => "mocked");
  assert.equal(wallet.empty, "mocked");
  const set = t.mock.setter(wallet, "all");
  wallet.all = 7;
  assert.equal(wallet.sum, 7);
  assert.equal(set.mock.callCount(), 1);
  t.mock.restoreAll();
  assert.equal(wallet.empty, false);
  class Base { hi() { return "hi" } }
  class Derived extends Base {}
  const derived = new Derived();
  t.mock.method(derived, "hi", () => "ho");
  assert.equal(derived.hi(), "ho");
  assert.throws(() => t.mock.method(wallet, "sum"), { code: "ERR_INVALID_ARG_VALUE" });
});
const shared = { f() { return "real" } };
test("a test's own mocks", (t) => { t.mock.method(shared, "f", () => "mock"); assert.equal(shared.f(), "mock") });
test("end with it", () => { assert.equal(shared.f(), "real") });
test("mock.timers", async (t) => {
  const seen = [];
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1000 });
  assert.equal(Date.now(), 1000);
  setTimeout((word) => seen.push(word), 100, "timeout");
  const every = setInterval(() => { seen.push("every"); if (seen.length > 3) clearInterval(every) }, 40);
  clearTimeout(setTimeout(() => seen.push("never"), 10));
  t.mock.timers.tick(39);
  assert.deepEqual(seen, []);
  t.mock.timers.tick(1);
  assert.deepEqual(seen, ["every"]);
  t.mock.timers.tick(60);
  assert.deepEqual(seen, ["every", "every", "timeout"]);
  assert.equal(new Date().toISOString(), "1970-01-01T00:00:01.100Z");
  assert.ok(new Date(5) instanceof Date && new Date(2020, 0).getFullYear() === 2020 && typeof Date() === "string");
  t.mock.timers.setTime(5000);
  assert.equal(Date.now(), 5000);
  assert.throws(() => t.mock.timers.enable(), { code: "ERR_INVALID_STATE" });
  t.mock.timers.reset();
  assert.ok(Date.now() > 5000);
  await new Promise((resolve) => setTimeout(resolve, 1));
});
test("runAll", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const seen = [];
  setTimeout(() => seen.push(2), 2000);
  setTimeout(() => seen.push(1), 1000);
  t.mock.timers.runAll();
  assert.deepEqual(seen, [1, 2]);
});
'''
MATCHERS = '''class Wrong extends TypeError { constructor(text, code) { super(text); this.code = code; this.at = { line: 1 } } }
const wrong = () => { throw new Wrong("it is wrong", "E_WRONG") };
test("throws", () => {
  assert.throws(wrong);
  assert.throws(wrong, Wrong);
  assert.throws(wrong, TypeError, "a message");
  assert.throws(wrong, /is wrong/);
  assert.throws(wrong, { name: "TypeError", code: "E_WRONG", message: /^it/, at: { line: 1 } });
  assert.throws(wrong, (error) => error instanceof Wrong && error.code === "E_WRONG");
  assert.throws(() => { throw new Error("same") }, new Error("same"));
  assert.doesNotThrow(() => 1);
});
test("rejects", async () => {
  await assert.rejects(async () => wrong(), { code: "E_WRONG" });
  await assert.rejects(Promise.reject(new RangeError("r")), RangeError);
  await assert.rejects(Promise.reject(new RangeError("r")), /RangeError: r/);
  await assert.doesNotReject(Promise.resolve(1));
  await assert.rejects(assert.rejects(Promise.resolve(1)), { code: "ERR_ASSERTION", message: "Missing expected rejection." });
});
const alike = [
  [new Map([["a", { b: 1 }], [{ k: 1 }, 2]]), new Map([[{ k: 1 }, 2], ["a", { b: 1 }]])], [new Set([1, { a: 1 }]), new Set([{ a: 1 }, 1])],
  [new Date(5), new Date(5)], [new Uint8Array([1, 2]), new Uint8Array([1, 2])], [new Float64Array([NaN]), new Float64Array([NaN])],
  [new Uint8Array([1, 2]).buffer, new Uint8Array([1, 2]).buffer], [/x/gi, /x/gi], [NaN, NaN], [[1, [2, [3]]], [1, [2, [3]]]],
  [{ [Symbol.for("s")]: 1 }, { [Symbol.for("s")]: 1 }], [new Error("a"), new Error("a")], [Object(1), Object(1)], [5n, 5n],
  [new DataView(new ArrayBuffer(2)), new DataView(new ArrayBuffer(2))], [Object.create(null), Object.create(null)],
];
const apart = [
  [new Map([["a", 1]]), new Map([["a", 2]])], [new Map([["a", 1]]), new Map([["b", 1]])], [new Set([1]), new Set([2])],
  [new Set([{ a: 1 }, { a: 1 }]), new Set([{ a: 1 }, { a: 2 }])], [new Date(5), new Date(6)], [0, -0], [1, "1"], [null, undefined],
  [new Uint8Array([1]), new Uint8Array([2])], [new Uint8Array([1]), new Int8Array([1])], [[1], { 0: 1, length: 1 }],
  [new Uint8Array([1]).buffer, new Uint8Array([2]).buffer], [/x/g, /x/i], [{ a: undefined }, {}], [[0], [-0]], [[, 1], [undefined, 1]],
  [new Error("a"), new Error("b")], [new Error("a"), new TypeError("a")], [{}, Object.create(null)], [Object(1), Object(2)],
  [new Map([[{ k: 1 }, 1], [{ k: 1 }, 2]]), new Map([[{ k: 1 }, 1], [{ k: 1 }, 1]])], [1n, 1], [new (class A {})(), {}],
];
alike.forEach(([a, b], n) => test(`alike ${n}`, () => { assert.deepStrictEqual(a, b); assert.throws(() => assert.notDeepEqual(a, b)) }));
apart.forEach(([a, b], n) => test(`apart ${n}`, () => { assert.notDeepStrictEqual(a, b); assert.throws(() => assert.deepEqual(a, b), assert.AssertionError) }));
'''
MESSAGES = '''const said = (run) => { try { run() } catch (error) { return error } throw new Error("nothing was thrown") };
const begins = [
  [() => assert.equal(1, 2), "Expected values to be strictly equal:\\n\\n1 !== 2\\n"],
  [() => assert.equal("a", 1), "Expected values to be strictly equal:\\n\\n'a' !== 1\\n"],
  [() => assert.equal([1], [1]), "Values have same structure but are not reference-equal:\\n\\n[\\n  1\\n]\\n".slice(0, 55)],
  [() => assert.deepEqual({ a: 1 }, { a: 2 }), "Expected values to be strictly deep-equal:\\n+ actual - expected\\n\\n"],
  [() => assert.notEqual(1, 1), 'Expected "actual" to be strictly unequal to: 1'],
  [() => assert.notDeepEqual([1], [1]), 'Expected "actual" not to be strictly deep-equal to:\\n\\n'],
  [() => assert.ok(0), "The expression evaluated to a falsy value:\\n\\n"], [() => assert(null), "The expression evaluated to a falsy value:\\n\\n"],
  [() => assert.ok(), "No value argument passed to `assert.ok()`"], [() => assert.fail(), "Failed"], [() => assert.fail("mine"), "mine"],
  [() => assert.match("a", /b/), "The input did not match the regular expression /b/. Input:\\n\\n'a'\\n"],
  [() => assert.match(5, /b/), 'The "string" argument must be of type string. Received type number (5)'],
  [() => assert.doesNotMatch("a", /a/), "The input was expected to not match the regular expression /a/. Input:\\n\\n'a'\\n"],
  [() => assert.throws(() => {}), "Missing expected exception."], [() => assert.throws(() => {}, RangeError), "Missing expected exception (RangeError)."],
  [() => assert.throws(() => {}, RangeError, "why"), "Missing expected exception (RangeError): why"],
  [() => assert.throws(() => { throw new TypeError("t") }, RangeError), 'The error is expected to be an instance of "RangeError". Received "TypeError"\\n\\nError message:\\n\\nt'],
  [() => assert.throws(() => { throw new Error("x") }, /y/), "The input did not match the regular expression /y/. Input:\\n\\n'Error: x'\\n"],
  [() => assert.throws(() => { throw new Error("x") }, { message: "y" }), "Expected values to be strictly deep-equal:\\n+ actual - expected\\n\\n"],
  [() => assert.throws(() => { throw new Error("x") }, () => false), 'The validation function is expected to return "true". Received false\\n\\nCaught error:\\n\\nError: x'],
  [() => assert.doesNotThrow(() => { throw new Error("boo") }), 'Got unwanted exception.\\nActual message: "boo"'],
  [() => assert.ifError(new Error("e")), "ifError got unwanted exception: e"], [() => assert.equal(1, 2, "given"), "given"],
];
begins.forEach(([run, text], n) => test(`message ${n}`, () => {
  const error = said(run);
  assert.equal(error.message.slice(0, text.length), text);
  assert.equal(error.code, "ERR_ASSERTION");
  assert.equal(error.name, "AssertionError");
}));
test("members", () => {
  const error = said(() => assert.equal(1, 2));
  assert.deepEqual([error.actual, error.expected, error.operator, error.generatedMessage], [1, 2, "strictEqual", true]);
  const mine = new RangeError("mine");
  assert.equal(said(() => assert.equal(1, 2, mine)), mine);
});
'''
LOOSE = '''import loose, { strict } from "node:assert";
test("node:assert", () => {
  loose.equal(1, "1");
  loose.notEqual(1, 2);
  loose.throws(() => loose.strictEqual(1, "1"));
  loose.deepStrictEqual([1], [1]);
  strict.throws(() => strict.equal(1, "1"));
  strict.equal(strict.strict, strict);
});
'''
PLANNED = '''test("plan", async (t) => { t.plan(2); t.assert.ok(true); await t.test("inner", () => {}) });
test("signal", async (t) => { assert.equal(t.signal.aborted, false) });
await test("at the top", async () => { await null });
test("timeout is not reached", { timeout: 60000 }, async () => { await new Promise((f) => setTimeout(f, 1)) });
describe("async", async () => { it("in it", () => {}) });
'''
PASSING = {"hooks": HOOKS, "subtests": SUBTESTS, "left out": LEFT_OUT, "mocks": MOCKS, "matchers": MATCHERS,
           "messages": MESSAGES, "loose": LOOSE, "planned": PLANNED}
FAILING = {
    "a subtest": ('test("outer", async (t) => { await t.test("inner", () => { throw new Error("deep") }) });', "deep"),
    "a before hook": ('before(() => { throw new Error("early") }); test("a", () => {}); test("b", () => {});', "early"),
    "an afterEach hook": ('afterEach(() => { throw new Error("late") }); test("a", () => {});', "late"),
    "an after hook": ('describe("s", () => { after(() => { throw new Error("last") }); it("a", () => {}) });', "last"),
    "a timeout": ('test("slow", { timeout: 20 }, async () => { await new Promise((f) => setTimeout(f, 2000)) });', "timed out"),
    "a plan": ('test("plan", (t) => { t.plan(2); t.assert.ok(true) });', "plan"),
    "a callback": ('test("c", (t, done) => { done(new Error("called")) });', "called"),
    "nobody waits": ('test("p", (t) => { t.test("i", async () => { await new Promise((f) => setTimeout(f, 50)) }) });', "parent"),
    "a suite": ('describe("s", () => { throw new Error("in the suite") });', "in the suite"),
}
"""Test files that fail both under Node and in the jail, each with a word that its failure must contain."""
ABSENT = {
    "mock.module": "test('x', () => { mock.module('./a.js', {}) });",
    "setImmediate": "test('x', (t) => { t.mock.timers.enable({ apis: ['setImmediate'] }) });",
    "assert.CallTracker": "test('x', () => { new assert.CallTracker() });",
    "t.waitFor": "test('x', (t) => { t.waitFor(() => 1) });",
    "`signal`": "test('x', { signal: AbortSignal.timeout(1000) }, () => {});",
    "describe() inside a running test": "test('x', () => { describe('y', () => {}) });",
    "deepEqual of node:assert": "import loose from 'node:assert'; test('x', () => { loose.deepEqual([1], ['1']) });",
    "node:fs": "import 'node:fs';",
    "run() of node:test": "import { run } from 'node:test'; test('x', () => { run() });",
}
"""What the jail does not have is named by the failure."""
