// Values as text for messages, and whether two values are alike: what `node:assert` compares and prints.
const { is, keys, getOwnPropertySymbols, getPrototypeOf, prototype: objectPrototype } = Object;
const DEPTH_MAX = 4, ITEMS_MAX = 50, LINE_CHARS = 72;

const quoted = (text) => {
  const quote = !text.includes("'") ? "'" : !text.includes('"') ? '"' : !text.includes("`") && !text.includes("${") ? "`" : "'";
  const escaped = text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\r", "\\r").replaceAll("\t", "\\t");
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote;
};
const named = (key) => typeof key === "symbol" ? `[${String(key)}]` : /^[A-Za-z_$][\w$]*$/.test(key) ? key : quoted(key);
const headOf = (value) => {
  const made = getPrototypeOf(value);
  if (made === null) return "[Object: null prototype] ";
  const name = made.constructor?.name;
  return typeof name === "string" && name !== "Object" && name !== "Array" ? `${name} ` : "";
};
const between = (open, parts, close, indent) => {
  if (!parts.length) return `${open}${close}`;
  const inner = `${indent}  `;
  const broken = `${open}\n${parts.map((part) => inner + part).join(",\n")}\n${indent}${close}`;
  const whole = `${open} ${parts.join(", ")} ${close}`;
  return indent !== null && (whole.length > LINE_CHARS || whole.includes("\n")) ? broken : whole;
};

/** `value` as Node would print it, or nearly so: one line if it is short. */
export function inspect(value, indent = "", depth = 0) {
  if (typeof value === "string") return quoted(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "symbol") return String(value);
  if (typeof value === "function") {
    const isClass = /^class\b/.test(Function.prototype.toString.call(value));
    return isClass ? `[class ${value.name || "(anonymous)"}]` : `[Function${value.name ? `: ${value.name}` : " (anonymous)"}]`;
  }
  if (value === null || typeof value !== "object") return is(value, -0) ? "-0" : String(value);
  if (value instanceof Error) return `[${value.name}${value.message ? `: ${value.message}` : ""}]`;
  if (value instanceof Date) return Number.isNaN(+value) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Number || value instanceof String || value instanceof Boolean)
    return `[${value.constructor.name}: ${inspect(value.valueOf())}]`;
  if (depth > DEPTH_MAX) return Array.isArray(value) ? "[Array]" : "[Object]";
  const deeper = (one) => inspect(one, `${indent}  `, depth + 1);
  const list = (items, shown) => {
    const parts = [];
    for (const item of items) { if (parts.length === ITEMS_MAX) { parts.push("... more items"); break } parts.push(shown(item)) }
    return parts;
  };
  if (value instanceof Map)
    return between(`${headOf(value).trimEnd()}(${value.size}) {`, list(value, (pair) => `${deeper(pair[0])} => ${deeper(pair[1])}`), "}", indent);
  if (value instanceof Set) return between(`${headOf(value).trimEnd()}(${value.size}) {`, list(value, deeper), "}", indent);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView))
    return between(`${headOf(value).trimEnd()}(${value.length}) [`, list(value, deeper), "]", indent);
  if (value instanceof ArrayBuffer) return `ArrayBuffer { byteLength: ${value.byteLength} }`;
  if (Array.isArray(value)) return between(`${headOf(value)}[`, list(Array.from(value), deeper), "]", indent);
  const own = list(ownKeys(value), (key) => `${named(key)}: ${deeper(value[key])}`);
  return between(`${headOf(value)}{`, own, "}", indent);
}

const ownKeys = (value) => [...keys(value), ...getOwnPropertySymbols(value).filter(
  (symbol) => objectPrototype.propertyIsEnumerable.call(value, symbol))];
const tagOf = (value) => objectPrototype.toString.call(value);
const isBoxed = (value) => value instanceof Number || value instanceof String || value instanceof Boolean
  || value instanceof BigInt || value instanceof Symbol;
const isObject = (value) => typeof value === "object" && value !== null;

/** Whether two values are deeply and strictly equal, as `assert.deepStrictEqual` of Node asks. */
export function same(a, b, seen = new Map()) {
  if (is(a, b)) return true;
  if (!isObject(a) || !isObject(b)) return false;
  if (getPrototypeOf(a) !== getPrototypeOf(b) || tagOf(a) !== tagOf(b)) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  if (seen.get(a) === b) return true;
  seen.set(a, b);
  if (a instanceof Promise || a instanceof WeakMap || a instanceof WeakSet || a instanceof WeakRef) return false;
  if (a instanceof Date && !is(+a, +b)) return false;
  if (a instanceof RegExp && (String(a) !== String(b) || a.lastIndex !== b.lastIndex)) return false;
  if (isBoxed(a) && !is(a.valueOf(), b.valueOf())) return false;
  if (a instanceof Error && (a.name !== b.name || a.message !== b.message || !same(a.cause, b.cause, seen)
                             || !same(a.errors, b.errors, seen))) return false;
  if (Array.isArray(a) && a.length !== b.length) return false;
  if (a instanceof ArrayBuffer || a instanceof DataView) {
    const [left, right] = [a, b].map((one) => one instanceof DataView
      ? new Uint8Array(one.buffer, one.byteOffset, one.byteLength) : new Uint8Array(one));
    if (!same(left, right, seen)) return false;
  }
  if (a instanceof Map && !sameEntries(a, b, seen)) return false;
  if (a instanceof Set && !sameMembers(a, b, seen)) return false;
  if (ArrayBuffer.isView(a) && !(a instanceof DataView)) {
    if (a.length !== b.length) return false;
    for (let i = 0; i < a.length; i++) if (!is(a[i], b[i])) return false;
    return true;
  }
  const names = ownKeys(a), others = new Set(ownKeys(b));
  return names.length === others.size && names.every((name) => others.has(name) && same(a[name], b[name], seen));
}
// A key that is an object is alike to a key that nobody else was found to be alike to.
function sameEntries(a, b, seen) {
  if (a.size !== b.size) return false;
  const left = new Set(b.keys());
  for (const [key, value] of a) {
    let found = b.has(key) ? [key] : isObject(key) ? [...left].filter((one) => isObject(one) && same(key, one, new Map(seen))) : [];
    found = found.filter((one) => left.has(one) && same(value, b.get(one), new Map(seen)));
    if (!found.length) return false;
    left.delete(found[0]);
  }
  return true;
}
function sameMembers(a, b, seen) {
  if (a.size !== b.size) return false;
  const left = new Set(b);
  for (const one of a) if (left.has(one)) left.delete(one);
  for (const one of a) {
    if (b.has(one)) continue;
    const found = isObject(one) ? [...left].find((other) => isObject(other) && !a.has(other) && same(one, other, new Map(seen))) : undefined;
    if (found === undefined) return false;
    left.delete(found);
  }
  return true;
}

/** A function in the place of `name`, which the jail does not have: it says so when it is called. */
export const absent = (name, instead) => function () {
  throw new Error(`${name} is absent in the jail${instead ? `: ${instead}` : ""}`);
};
