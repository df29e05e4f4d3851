// `node:test` as far as a plugin's tests need it, and the counters of what they run. The same files run under
// `node --test`. A test that begins after another has ended takes its turn; `await test(…)` at the top of a file works.
const { stringify } = JSON;
const { keys } = Object;
const Counters = Uint32Array;
const arrays = Object.create(null);
const FAILURES_MAX = 20, FAILURE_CHARS_MAX = 2000;

export function array(path, size) { return arrays[path] = new Counters(size) }

const began = globalThis.__begins;
delete globalThis.__begins;
const results = { passed: 0, failed: 0, failures: [] };
const group = (name, outer) => ({ name, outer, before: [], after: [], beforeEach: [], afterEach: [], begun: false, only: false });
let root = group("", null), current = root, tail = Promise.resolve();

const textOf = (error) => {
  if (!(error instanceof Error)) return `thrown: ${String(error)}`;
  const title = `${error.name}: ${error.message}`;
  return error.stack ? `${title}\n${error.stack}` : title;
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
  return { run, name, options: given.find((one) => one && typeof one === "object") ?? {} };
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
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`test timed out after ${ms}ms`)), ms) });
  try { return await Promise.race([promise, late]) } finally { clearTimeout(timer) }
};
const ran = (run, context) => run.length < 2 ? run(context)
  : new Promise((resolve, reject) => run(context, (error) => error ? reject(error) : resolve()));

async function one(at, name, run, options) {
  const title = titleOf(at, name), chain = chainOf(at);
  let left = false, inner = 0;
  const own = group(name, at);
  own.begun = true;
  const context = {
    name, fullName: title, diagnostic() {}, skip() { left = true }, todo() {},
    async test(...given) {
      const { run: step, name: part, options: more } = parsed(given);
      if (more.skip || more.todo || !step) return;
      const before = results.failed;
      await one(own, part, step, more);
      if (results.failed > before) inner++;
    },
    before: (f) => f(), after: (f) => own.after.push(f), beforeEach: (f) => own.beforeEach.push(f),
    afterEach: (f) => own.afterEach.push(f),
  };
  began(stringify([title, results.passed, results.failed]));
  try {
    for (const outer of chain) if (!outer.begun) { outer.begun = true; for (const f of outer.before) await f() }
    for (const outer of chain) for (const f of outer.beforeEach) await f(context);
    try {
      await within(options.timeout, ran(run, context));
    } finally {
      for (const f of own.after) await f();
      for (const outer of chain.reverse()) for (const f of outer.afterEach) await f(context);
    }
    if (inner) throw new Error(`${inner} of its subtests failed`);
    if (!left) results.passed++;
  } catch (error) { failed(title, error) }
}
const queued = (work) => { const done = tail.then(work); tail = done; return done };

export function test(...given) {
  const { run, name, options } = parsed(given), at = current;
  if (options.skip || options.todo || !run) return Promise.resolve();
  return queued(() => one(at, name, run, options));
}
export function describe(...given) {
  const { run, name, options } = parsed(given);
  if (options.skip || options.todo || !run) return Promise.resolve();
  const outer = current, made = current = group(name, outer);
  const finish = async () => {
    if (made.begun) for (const f of made.after) try { await f() } catch (error) { failed(titleOf(made, "after"), error) }
  };
  try {
    const promise = run();
    if (typeof promise?.then === "function") throw new TypeError(`the function of describe(${stringify(name)}) is async: declare tests at once`);
  } catch (error) { failed(titleOf(made, "describe"), error) } finally { current = outer }
  return queued(finish);
}
const hook = (kind) => (f) => { current[kind].push(f) };
export const before = hook("before"), after = hook("after"), beforeEach = hook("beforeEach"), afterEach = hook("afterEach");
export { test as it, describe as suite };
for (const f of [test, describe]) f.skip = f.todo = () => Promise.resolve();
Object.assign(test, { test, it: test, describe, suite: describe, before, after, beforeEach, afterEach });

// ------------------------------------------------------------------ what the worker's main module calls
export async function file(name, load) {
  root = current = group("", null);
  try {
    await load();
    for (let last; last !== tail;) { last = tail; await last }
    if (root.begun) for (const f of root.after) await f();
  } catch (error) { failed(name, error) }
}
export function report() {
  const counts = {};
  for (const path of keys(arrays)) {
    const hit = counts[path] = [], counted = arrays[path];
    for (let i = 0; i < counted.length; i++) if (counted[i]) hit.push(i);
  }
  return { ...results, counts };
}
