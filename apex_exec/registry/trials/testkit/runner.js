// `node:test` as far as a plugin's tests need it, and the counters of what they run. The same files run under
// `node --test`. A test that begins after another has ended takes its turn; `await test(…)` at the top of a file works.
import { absent } from "apex:inspect";
import { MockTracker } from "apex:mock";
import { loose } from "node:assert/strict";
const { stringify } = JSON;
const { keys } = Object;
const Counters = Uint32Array;
const arrays = Object.create(null);
const FAILURES_MAX = 20, FAILURE_CHARS_MAX = 2000;
const startTimer = setTimeout, stopTimer = clearTimeout; // a test may put its own in their place

export function array(path, size) { return arrays[path] = new Counters(size) }

const began = globalThis.__begins;
delete globalThis.__begins;
const results = { passed: 0, failed: 0, failures: [] };
const group = (name, outer) => ({
  name, outer, before: [], after: [], beforeEach: [], afterEach: [], begun: false, broken: null, isTodo: outer?.isTodo ?? false,
});
let root = group("", null), current = root, tail = Promise.resolve(), active = null, isLoaded = false, saidOnly = false;

const textOf = (error) => {
  if (!(error instanceof Error)) return `thrown: ${String(error)}`;
  const frames = String(error.stack ?? "").split("\n").filter((line) => line && !/\((?:apex|node):|\(native\)$/.test(line));
  return [`${error.name}: ${error.message}`, ...frames].join("\n");
};
function failed(name, error) {
  results.failed++;
  let text;
  try { text = textOf(error) } catch { text = "(the error's text is unavailable)" }
  if (results.failures.length < FAILURES_MAX) results.failures.push(`${name}: ${text}`.slice(0, FAILURE_CHARS_MAX));
}
const parsed = (given) => {
  const run = given.findLast((one) => typeof one === "function");
  const name = typeof given[0] === "string" ? given[0] : run?.name || "<anonymous>";
  const options = given.find((one) => one && typeof one === "object") ?? {};
  if (options.signal) absent("the option `signal` of a test", "use `timeout`")();
  if (options.only && !saidOnly) {
    saidOnly = true;
    console.log("`only` has no effect here, as under `node --test` without --test-only: every test runs");
  }
  return { run, name, options };
};
const titleOf = (at, name) => {
  const names = [name];
  for (; at !== null; at = at.outer) if (at.name) names.unshift(at.name);
  return names.join(" > ");
};
const chainOf = (at) => { const chain = []; for (; at !== null; at = at.outer) chain.unshift(at); return chain };
const within = async (ms, promise) => {
  if (!(ms > 0 && ms < Infinity)) return promise;
  let timer;
  const late = new Promise((_, reject) => { timer = startTimer(() => reject(new Error(`test timed out after ${ms}ms`)), ms) });
  try { return await Promise.race([promise, late]) } finally { stopTimer(timer) }
};
const ran = (run, context) => run.length < 2 ? run(context)
  : new Promise((resolve, reject) => {
    const said = run(context, (error) => error ? reject(error) : resolve());
    if (typeof said?.then === "function") reject(new Error("passed a callback but also returned a Promise"));
  });
const allOf = async (hooks, context) => { for (const f of hooks) await ran(f, context) };
async function opened(at, context) {
  if (!at.begun) {
    at.begun = true;
    try { await allOf(at.before, context) } catch (error) { at.broken = { error } }
  }
  if (at.broken) throw at.broken.error;
}

// What a test is given. `own` is the group of its subtests.
class TestContext {
  #own; #state;
  constructor(own, state) { this.#own = own; this.#state = state }
  get name() { return this.#own.name }
  get fullName() { return titleOf(this.#own.outer, this.#own.name) }
  get mock() { return this.#state.mock ??= new MockTracker() }
  get signal() { return (this.#state.abort ??= new AbortController()).signal }
  get assert() {
    const state = this.#state;
    return state.assert ??= Object.fromEntries(keys(loose).filter((name) => typeof loose[name] === "function" && name !== "AssertionError")
      .map((name) => [name, (...given) => { state.counted++; return loose[name](...given) }])
      .concat([["snapshot", absent("t.assert.snapshot", "compare with deepStrictEqual")]]));
  }
  plan(count) { this.#state.planned = count }
  diagnostic(message) { console.log(String(message)) }
  skip() { this.#state.isLeft = true }
  todo() { this.#state.isTodo = true }
  runOnly() {}
  before(f) { this.#own.before.push(f) }
  after(f) { this.#own.after.push(f) }
  beforeEach(f) { this.#own.beforeEach.push(f) }
  afterEach(f) { this.#own.afterEach.push(f) }
  test(...given) {
    const state = this.#state, { run, name, options } = parsed(given);
    state.counted++;
    if (options.skip || !run) return Promise.resolve();
    state.open++;
    const done = state.tail.then(() => state.isOver ? undefined : one(this.#own, name, run, options)).then((isGood) => {
      state.open--;
      if (!isGood && !state.isOver) state.bad++;
    });
    state.tail = done;
    return done;
  }
}
TestContext.prototype.waitFor = absent("t.waitFor", "await the promise that you wait for");

// Runs one test with its hooks. Returns whether it is no failure.
async function one(at, name, run, options) {
  const title = titleOf(at, name), chain = chainOf(at), own = group(name, at);
  const state = { isLeft: false, isTodo: at.isTodo || Boolean(options.todo), open: 0, bad: 0, counted: 0, tail: Promise.resolve(), isOver: false };
  const context = new TestContext(own, state), before = active;
  own.isTodo = state.isTodo;
  own.begun = true; // a hook that a test adds for its subtests runs at once, before the first of them
  own.before = { push: (f) => { state.tail = state.tail.then(() => ran(f, context)).catch((error) => { own.broken ??= { error } }) } };
  began(stringify([title, results.passed, results.failed]));
  let failure = null;
  const tried = async (work) => { try { await work() } catch (error) { failure ??= { error } } };
  active = context;
  await tried(async () => {
    for (const outer of chain) await opened(outer, context);
    for (const outer of chain) await allOf(outer.beforeEach, context);
    await within(options.timeout, ran(run, context));
  });
  await tried(async () => { for (const outer of chain.reverse()) await allOf(outer.afterEach, context) });
  await tried(() => allOf(own.after, context));
  await tried(() => {
    if (state.open) throw new Error(`${state.open} subtest${state.open > 1 ? "s" : ""} did not finish before the parent: await t.test(…)`);
    if (state.bad) throw new Error(`${state.bad} subtest${state.bad > 1 ? "s" : ""} failed`);
    if (own.broken) throw own.broken.error;
    const { planned, counted } = state;
    if (planned !== undefined && planned !== counted) throw new Error(`plan expected ${planned} assertions but received ${counted}`);
  });
  state.isOver = true;
  active = before;
  state.abort?.abort();
  await tried(() => state.mock?.reset());
  if (state.isTodo || (state.isLeft && !failure)) return true;
  if (failure) failed(title, failure.error); else results.passed++;
  return failure === null;
}
const queued = (work) => { const done = tail.then(work); tail = done; return done };

export function test(...given) {
  if (active !== null && isLoaded) return active.test(...given); // inside a running test it is one of its subtests
  const { run, name, options } = parsed(given), at = current;
  if (options.skip || !run) return Promise.resolve();
  return queued(async () => { await one(at, name, run, options) });
}
export function describe(...given) {
  const { run, name, options } = parsed(given);
  if (active !== null && isLoaded) absent("describe() inside a running test", "use t.test")();
  if (options.skip || !run) return Promise.resolve();
  const outer = current, made = current = group(name, outer);
  made.isTodo ||= Boolean(options.todo);
  let promise;
  try { promise = run({ name }) } catch (error) { failed(titleOf(outer, name), error) } finally { current = outer }
  return queued(async () => {
    try {
      await promise; // of an async function: what it declares before its first await is in it
      if (made.begun) await allOf(made.after);
    } catch (error) { failed(titleOf(outer, name), error) }
  });
}
const hook = (kind) => (f) => { current[kind].push(f) };
export const before = hook("before"), after = hook("after"), beforeEach = hook("beforeEach"), afterEach = hook("afterEach");
export const mock = new MockTracker();
export const run = absent("run() of node:test"), snapshot = new Proxy({}, { get: () => absent("snapshot of node:test")() });
const withOption = (f, option) => (...given) => {
  const { run, name, options } = parsed(given);
  return f(name, { ...options, [option]: true }, ...run ? [run] : []);
};
for (const f of [test, describe]) for (const option of ["skip", "todo", "only"]) f[option] = withOption(f, option);
export const { skip, todo, only } = test;
export { test as it, describe as suite };
Object.assign(test, { test, it: test, describe, suite: describe, before, after, beforeEach, afterEach, mock, run });

// ------------------------------------------------------------------ what the worker's main module calls
// Tests begin when their file is loaded, or when it can only go on after one of them: when it awaits a test.
export async function file(name, load) {
  let begin;
  root = current = group("", null);
  isLoaded = false;
  tail = new Promise((resolve) => { begin = resolve });
  const timer = startTimer(begin, 0);
  try { await load() } catch (error) { failed(name, error) }
  isLoaded = true;
  stopTimer(timer);
  begin();
  try {
    for (let last; last !== tail;) { last = tail; await last }
    if (root.begun) await allOf(root.after);
  } catch (error) { failed(name, error) }
  mock.reset();
}
export function report() {
  const counts = {};
  for (const path of keys(arrays)) {
    const hit = counts[path] = [], counted = arrays[path];
    for (let i = 0; i < counted.length; i++) if (counted[i]) hit.push(i);
  }
  return { ...results, counts };
}
