// `node:assert/strict`, and as `node:assert` the same functions, of which `equal` and `notEqual` compare with `==`.
import { absent, inspect, same } from "apex:inspect";

export class AssertionError extends Error {
  constructor({ message, actual, expected, operator, generatedMessage = false } = {}) {
    super(message);
    Object.defineProperty(this, "name", { value: "AssertionError", writable: true, configurable: true });
    Object.assign(this, { generatedMessage, code: "ERR_ASSERTION", actual, expected, operator });
  }
}
function fails(given, text, actual, expected, operator) {
  if (given instanceof Error) throw given;
  throw new AssertionError({ message: given ?? text, actual, expected, operator, generatedMessage: given === undefined });
}
const wrongArgument = (name, kind, value) => {
  const got = value === null || value === undefined ? value : `${typeof value === "object" || typeof value === "function" ? "" : "type "}${typeof value} (${inspect(value)})`;
  return Object.assign(new TypeError(`The "${name}" argument must be ${kind}. Received ${got}`), { code: "ERR_INVALID_ARG_TYPE" });
};
const isPlain = (value) => value === null || (typeof value !== "object" && typeof value !== "function");
const difference = (title, a, b) => {
  const [left, right] = [inspect(a), inspect(b)];
  if (isPlain(a) && isPlain(b) && left.length + right.length < 80) return `${title}\n\n${left} !== ${right}\n`;
  const marked = (sign, text) => text.split("\n").map((line) => `${sign} ${line}`).join("\n");
  return `${title}\n+ actual - expected\n\n${marked("+", left)}\n${marked("-", right)}\n`;
};

// Whether what was thrown is what was wanted: a class, a pattern, a function, or an object of properties.
function fits(error, wanted, message, operator) {
  if (wanted === undefined) return;
  const no = (text) => fails(message, text, error, wanted, operator);
  if (wanted instanceof RegExp) {
    if (!wanted.test(String(error))) no(`The input did not match the regular expression ${wanted}. Input:\n\n${inspect(String(error))}\n`);
  } else if (typeof wanted === "function") {
    if (wanted.prototype !== undefined && error instanceof wanted) return;
    if (Error.isPrototypeOf(wanted)) {
      const got = error instanceof Error ? `"${error.name}"\n\nError message:\n\n${error.message}` : `"${inspect(error)}"`;
      no(`The error is expected to be an instance of "${wanted.name}". Received ${got}`);
    }
    const said = wanted.call({}, error);
    if (said !== true) no(`The ${wanted.name ? `"${wanted.name}" ` : ""}validation function is expected to return "true". Received ${inspect(said)}\n\nCaught error:\n\n${error}`);
  } else if (typeof wanted === "object" && wanted !== null) {
    const names = wanted instanceof Error ? ["name", "message", ...Object.keys(wanted)] : Object.keys(wanted);
    if (!names.length) throw Object.assign(new TypeError("The argument 'error' may not be an empty object. Received {}"), { code: "ERR_INVALID_ARG_VALUE" });
    const isGood = (name) => wanted[name] instanceof RegExp && typeof error?.[name] === "string" ? wanted[name].test(error[name])
      : error !== null && (typeof error === "object" || typeof error === "function") && name in error && same(error[name], wanted[name]);
    if (!names.every(isGood)) {
      const picked = (value) => Object.fromEntries(names.map((name) => [name, value?.[name]]));
      no(difference("Expected values to be strictly deep-equal:", picked(error), picked(wanted)));
    }
  } else throw wrongArgument("expected", "of type function or an instance of Error, RegExp, or Object", wanted);
}
const apart = (wanted, message) => typeof wanted === "string" ? [undefined, wanted] : [wanted, message];
const missing = (kind, wanted, message) => {
  const name = typeof wanted === "function" && wanted.name ? ` (${wanted.name})` : "";
  return `Missing expected ${kind}${name}${message ? `: ${message}` : "."}`;
};
const unwanted = (kind, error, message) => `Got unwanted ${kind}${message ? `: ${message}` : "."}\nActual message: "${error?.message ?? inspect(error)}"`;
function promiseOf(given) {
  const promise = typeof given === "function" ? given() : given;
  if (typeof promise?.then === "function") return promise;
  throw typeof given === "function"
    ? Object.assign(new TypeError(`Expected instance of Promise to be returned from the "promiseFn" function but got ${typeof promise}.`), { code: "ERR_INVALID_RETURN_VALUE" })
    : wrongArgument("promiseFn", "of type function or an instance of Promise", given);
}
const caughtBy = (run) => {
  if (typeof run !== "function") throw wrongArgument("fn", "of type function", run);
  try { run() } catch (thrown) { return { thrown } }
  return null;
};

export function ok(...given) {
  const [value, message] = given;
  if (!value) fails(message, given.length ? `The expression evaluated to a falsy value:\n\n  ${inspect(value)}\n` : "No value argument passed to `assert.ok()`", value, true, "==");
}
export function fail(message) { fails(message, "Failed", undefined, undefined, "fail") }
export function equal(a, b, message) {
  if (Object.is(a, b)) return;
  const text = same(a, b) ? `Values have same structure but are not reference-equal:\n\n${inspect(a)}\n`
    : difference("Expected values to be strictly equal:", a, b);
  fails(message, text, a, b, "strictEqual");
}
export function notEqual(a, b, message) {
  if (Object.is(a, b)) fails(message, `Expected "actual" to be strictly unequal to: ${inspect(b)}`, a, b, "notStrictEqual");
}
export function deepEqual(a, b, message) {
  if (!same(a, b)) fails(message, difference("Expected values to be strictly deep-equal:", a, b), a, b, "deepStrictEqual");
}
export function notDeepEqual(a, b, message) {
  if (same(a, b)) fails(message, `Expected "actual" not to be strictly deep-equal to:\n\n${inspect(b)}\n`, a, b, "notDeepStrictEqual");
}
function matched(text, wanted, message, operator, does) {
  if (!(wanted instanceof RegExp)) throw wrongArgument("regexp", "an instance of RegExp", wanted);
  if (typeof text === "string" && wanted.test(text) === does) return;
  fails(message, typeof text !== "string" ? `The "string" argument must be of type string. Received type ${typeof text} (${inspect(text)})`
    : `The input ${does ? "did not match" : "was expected to not match"} the regular expression ${wanted}. Input:\n\n${inspect(text)}\n`, text, wanted, operator);
}
export function match(text, wanted, message) { matched(text, wanted, message, "match", true) }
export function doesNotMatch(text, wanted, message) { matched(text, wanted, message, "doesNotMatch", false) }
export function throws(run, wanted, message) {
  [wanted, message] = apart(wanted, message);
  const caught = caughtBy(run);
  if (caught === null) fails(missing("exception", wanted, message), "", undefined, wanted, "throws");
  fits(caught.thrown, wanted, message, "throws");
}
export async function rejects(promise, wanted, message) {
  [wanted, message] = apart(wanted, message);
  let caught = null;
  const waited = promiseOf(promise);
  try { await waited } catch (thrown) { caught = { thrown } }
  if (caught === null) fails(missing("rejection", wanted, message), "", undefined, wanted, "rejects");
  fits(caught.thrown, wanted, message, "rejects");
}
export function doesNotThrow(run, wanted, message) {
  [wanted, message] = apart(wanted, message);
  const caught = caughtBy(run);
  if (caught) fails(undefined, unwanted("exception", caught.thrown, message), caught.thrown, wanted, "doesNotThrow");
}
export async function doesNotReject(promise, wanted, message) {
  [wanted, message] = apart(wanted, message);
  const waited = promiseOf(promise);
  try { await waited } catch (error) { fails(undefined, unwanted("rejection", error, message), error, wanted, "doesNotReject") }
}
export function ifError(value) {
  if (value !== null && value !== undefined)
    fails(undefined, `ifError got unwanted exception: ${value instanceof Error ? value.message || value.name : inspect(value)}`, value, null, "ifError");
}
export const strictEqual = equal, notStrictEqual = notEqual, deepStrictEqual = deepEqual, notDeepStrictEqual = notDeepEqual;
export const CallTracker = absent("assert.CallTracker", "use mock.fn() of node:test");
export const partialDeepStrictEqual = absent("assert.partialDeepStrictEqual", "compare the properties that you mean");
const functions = {
  AssertionError, CallTracker, ok, fail, equal, notEqual, deepEqual, notDeepEqual, match, doesNotMatch, throws, rejects,
  doesNotThrow, doesNotReject, ifError, strictEqual, notStrictEqual, deepStrictEqual, notDeepStrictEqual, partialDeepStrictEqual,
};
export const strict = Object.assign((...given) => ok(...given), functions);
strict.strict = strict;
export default strict;

// ------------------------------------------------------------------ node:assert
const LOOSE = "compare with deepStrictEqual, or import node:assert/strict";
const isLike = (a, b) => a == b || (a !== a && b !== b);
export const loose = Object.assign((...given) => ok(...given), functions, {
  strict,
  equal(a, b, message) { if (!isLike(a, b)) fails(message, `${inspect(a)} == ${inspect(b)}`, a, b, "==") },
  notEqual(a, b, message) { if (isLike(a, b)) fails(message, `${inspect(a)} != ${inspect(b)}`, a, b, "!=") },
  deepEqual: absent("assert.deepEqual of node:assert, which compares loosely,", LOOSE),
  notDeepEqual: absent("assert.notDeepEqual of node:assert, which compares loosely,", LOOSE),
});
