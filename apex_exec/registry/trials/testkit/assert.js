// `node:assert/strict`.
const show = (value, depth = 0) => {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return `[Function: ${value.name || "(anonymous)"}]`;
  if (value === null || typeof value !== "object") return Object.is(value, -0) ? "-0" : String(value);
  if (value instanceof Error) return `[${value.name}: ${value.message}]`;
  if (value instanceof Date) return Number.isNaN(+value) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (depth > 4) return "…";
  if (value instanceof Map) return `Map ${show([...value], depth + 1)}`;
  if (value instanceof Set) return `Set ${show([...value], depth + 1)}`;
  if (Array.isArray(value)) return `[ ${value.slice(0, 50).map((one) => show(one, depth + 1)).join(", ")} ]`;
  return `{ ${Object.keys(value).slice(0, 50).map((key) => `${key}: ${show(value[key], depth + 1)}`).join(", ")} }`;
};
const ownKeys = (value) => [...Object.keys(value), ...Object.getOwnPropertySymbols(value).filter(
  (symbol) => Object.prototype.propertyIsEnumerable.call(value, symbol))];
const tagOf = (value) => Object.prototype.toString.call(value);
const boxed = (value) => value instanceof Number || value instanceof String || value instanceof Boolean;

function same(a, b, seen = new Map()) {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b) || tagOf(a) !== tagOf(b)) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  if (seen.get(a) === b) return true;
  seen.set(a, b);
  if (a instanceof Promise || a instanceof WeakMap || a instanceof WeakSet) return false;
  if (a instanceof Date && !Object.is(+a, +b)) return false;
  if (a instanceof RegExp && (String(a) !== String(b) || a.lastIndex !== b.lastIndex)) return false;
  if (boxed(a) && !Object.is(a.valueOf(), b.valueOf())) return false;
  if (a instanceof Error && (a.name !== b.name || a.message !== b.message || !same(a.cause, b.cause, seen))) return false;
  if (Array.isArray(a) && a.length !== b.length) return false;
  if (a instanceof ArrayBuffer && !same(new Uint8Array(a), new Uint8Array(b), seen)) return false;
  if (a instanceof Map) {
    if (a.size !== b.size) return false;
    for (const [key, value] of a) {
      const other = b.has(key) ? key : [...b.keys()].find((one) => typeof one === "object" && same(key, one, seen));
      if (!(b.has(key) || other !== undefined) || !same(value, b.get(other), seen)) return false;
    }
  }
  if (a instanceof Set) {
    if (a.size !== b.size) return false;
    for (const one of a) if (!b.has(one) && ![...b].some((other) => typeof other === "object" && same(one, other, seen))) return false;
  }
  const names = ownKeys(a), others = new Set(ownKeys(b));
  return names.length === others.size && names.every((name) => others.has(name) && same(a[name], b[name], seen));
}

export class AssertionError extends Error {
  constructor({ message, actual, expected, operator } = {}) {
    super(message);
    Object.defineProperty(this, "name", { value: "AssertionError", writable: true, configurable: true });
    Object.assign(this, { generatedMessage: false, code: "ERR_ASSERTION", actual, expected, operator });
  }
}
function fails(given, text, actual, expected, operator) {
  if (given instanceof Error) throw given;
  throw new AssertionError({ message: given ?? text, actual, expected, operator });
}
function fits(error, wanted, message) {
  if (wanted === undefined) return;
  if (wanted instanceof RegExp) {
    if (!wanted.test(String(error))) fails(message, `${show(error)} does not match ${wanted}`, error, wanted, "throws");
  } else if (typeof wanted === "function") {
    if (wanted.prototype !== undefined && error instanceof wanted) return;
    if (wanted === Error || Error.isPrototypeOf(wanted)) throw error;
    if (wanted.call({}, error) !== true) fails(message, "the validation function did not return true", error, wanted, "throws");
  } else {
    const names = wanted instanceof Error ? ["name", "message", ...Object.keys(wanted)] : Object.keys(wanted);
    if (!names.length) throw new TypeError("the expected error is an empty object");
    for (const name of names) {
      const good = wanted[name] instanceof RegExp && typeof error?.[name] === "string" ? wanted[name].test(error[name])
        : error !== null && typeof error === "object" && name in error && same(error[name], wanted[name]);
      if (!good) fails(message, `the error's ${name} is ${show(error?.[name])}, not ${show(wanted[name])}`, error, wanted, "throws");
    }
  }
}
const apart = (wanted, message) => typeof wanted === "string" ? [undefined, wanted] : [wanted, message];

export function ok(value, message) { if (!value) fails(message, `${show(value)} is not truthy`, value, true, "==") }
export function fail(message = "Failed") { fails(message, message, undefined, undefined, "fail") }
export function equal(a, b, message) { if (!Object.is(a, b)) fails(message, `${show(a)} is not ${show(b)}`, a, b, "strictEqual") }
export function notEqual(a, b, message) { if (Object.is(a, b)) fails(message, `both are ${show(a)}`, a, b, "notStrictEqual") }
export function deepEqual(a, b, message) { if (!same(a, b)) fails(message, `${show(a)} is not like ${show(b)}`, a, b, "deepStrictEqual") }
export function notDeepEqual(a, b, message) { if (same(a, b)) fails(message, `both are like ${show(a)}`, a, b, "notDeepStrictEqual") }
export function match(text, wanted, message) {
  if (typeof text !== "string" || !wanted.test(text)) fails(message, `${show(text)} does not match ${wanted}`, text, wanted, "match");
}
export function doesNotMatch(text, wanted, message) {
  if (typeof text === "string" && wanted.test(text)) fails(message, `${show(text)} matches ${wanted}`, text, wanted, "doesNotMatch");
}
export function throws(run, wanted, message) {
  [wanted, message] = apart(wanted, message);
  let error;
  try { run() } catch (thrown) { error = { thrown } }
  if (error === undefined) fails(message, "Missing expected exception.", undefined, wanted, "throws");
  fits(error.thrown, wanted, message);
}
export async function rejects(promise, wanted, message) {
  [wanted, message] = apart(wanted, message);
  let error;
  try { await (typeof promise === "function" ? promise() : promise) } catch (thrown) { error = { thrown } }
  if (error === undefined) fails(message, "Missing expected rejection.", undefined, wanted, "rejects");
  fits(error.thrown, wanted, message);
}
export function doesNotThrow(run, message) {
  try { run() } catch (error) { fails(message, `it threw ${show(error)}`, error, undefined, "doesNotThrow") }
}
export async function doesNotReject(promise, message) {
  try { await (typeof promise === "function" ? promise() : promise) } catch (error) {
    fails(message, `it was rejected with ${show(error)}`, error, undefined, "doesNotReject");
  }
}
export function ifError(value) { if (value !== null && value !== undefined) throw value }
export const strictEqual = equal, notStrictEqual = notEqual, deepStrictEqual = deepEqual, notDeepStrictEqual = notDeepEqual;
const assert = (value, message) => ok(value, message);
export default Object.assign(assert, {
  AssertionError, ok, fail, equal, notEqual, deepEqual, notDeepEqual, match, doesNotMatch, throws, rejects, doesNotThrow,
  doesNotReject, ifError, strictEqual, notStrictEqual, deepStrictEqual, notDeepStrictEqual, strict: assert,
});
