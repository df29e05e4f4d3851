// Hooks, their context, the platform's API, values in and out, timers, console: the half of `runtime.py` that has to be
// in the engine. Run once in every engine, before the plugin. What it relies on later is captured here, so that a
// plugin that changes a prototype changes nothing of it.
//
// Where a list of ours grows it is a linked list of objects made by literals: `list[n] = x` and `for of` would ask
// Array.prototype, which is the plugin's to change.
(function (host, internals) {
  "use strict";
  const { parse, stringify } = JSON;
  const { isArray } = Array;
  const { isFinite } = Number;
  const { captureStackTrace } = Error;
  const { keys, hasOwn, getPrototypeOf, defineProperty, freeze, prototype: objectPrototype } = Object;
  const { apply, construct } = Reflect;
  const { toStringTag } = Symbol;
  const uncurried = (f) => Function.prototype.call.bind(f);
  const then = uncurried(Promise.prototype.then), resolved = Promise.resolve.bind(Promise);
  const MapHere = Map, SetHere = Set, PromiseHere = Promise, DateHere = Date, BytesHere = Uint8Array, ErrorHere = Error;
  const BufferHere = ArrayBuffer, RegExpHere = RegExp, StringHere = String, NumberHere = Number, InternalErrorHere = InternalError;
  const BooleanHere = Boolean, TypeErrorHere = TypeError, AggregateErrorHere = AggregateError;
  const isView = ArrayBuffer.isView, everything = globalThis;
  const mapGet = uncurried(Map.prototype.get), mapSet = uncurried(Map.prototype.set);
  const mapDelete = uncurried(Map.prototype.delete), mapEach = uncurried(Map.prototype.forEach);
  const timeOf = uncurried(Date.prototype.getTime), isoOf = uncurried(Date.prototype.toISOString);
  const includes = uncurried(String.prototype.includes), indexOf = uncurried(String.prototype.indexOf), slice = uncurried(String.prototype.slice);
  const codeAt = uncurried(String.prototype.charCodeAt), wellFormed = uncurried(String.prototype.toWellFormed);
  const split = uncurried(String.prototype.split), endsWith = uncurried(String.prototype.endsWith);
  const join = uncurried(Array.prototype.join);
  const toBase64 = uncurried(Uint8Array.prototype.toBase64), fromBase64 = Uint8Array.fromBase64.bind(Uint8Array);
  const own = (object, key, value) =>
    defineProperty(object, key, { __proto__: null, value, writable: true, configurable: true, enumerable: true });
  const hide = (object, key, value) =>
    defineProperty(object, key, { __proto__: null, value, writable: true, configurable: true, enumerable: false });

  // ------------------------------------------------------------------ values out
  const DEPTH_MAX = 64, INTEGER_MAX = 9007199254740991n;
  class NotAValue extends Error {
    constructor(path, message) { super(message); this.path = path }
  }
  const INSTEAD = {
    __proto__: null, Map: "write Object.fromEntries(value)", Set: "write [...value]", WeakMap: "return plain objects",
    WeakSet: "return plain objects", RegExp: "write String(value)", Error: "write value.message",
    Promise: "await it", function: "return data", symbol: "write String(value)",
  };
  const refuse = (path, kind) => { throw new NotAValue(path, "a " + kind + ", which cannot be carried: " + INSTEAD[kind]) };
  const tooLarge = (path) => { throw new NotAValue(path, "a BigInt beyond ±(2^53−1): return String(value)") };
  const kindOf = (value) => value instanceof MapHere ? "Map" : value instanceof SetHere ? "Set"
    : value instanceof PromiseHere ? "Promise" : value instanceof RegExpHere ? "RegExp"
    : value instanceof ErrorHere ? "Error" : value instanceof WeakMap ? "WeakMap" : "WeakSet";

  // Walks over a value to find what JSON.stringify cannot tell, or where it is. `isItem`: it stands in an array, where
  // nothing can be left out. `isFinal`: a toJSON returned it, so JSON.stringify does not ask it for a toJSON again. Throws
  // NotAValue.
  function look(value, path, depth, isItem, isFinal) {
    switch (typeof value) {
      case "string": case "boolean": return;
      case "undefined":
        if (isItem) throw new NotAValue(path, "undefined in an array: return null");
        return;
      case "number":
        if (!isFinite(value)) throw new NotAValue(path, "the number " + value + ": return null");
        return;
      case "bigint":
        if (isFinal) throw new NotAValue(path, "a BigInt that toJSON returned: return Number(value) there");
        if (value > INTEGER_MAX || value < -INTEGER_MAX) tooLarge(path);
        return;
      case "object": break;
      default: refuse(path, typeof value);
    }
    if (value === null) return;
    if (depth > DEPTH_MAX) throw new NotAValue(slice(path, 0, 200), "nested deeper than " + DEPTH_MAX + " levels, or in a circle");
    if (isArray(value)) {
      for (let i = 0; i < value.length; i++) look(value[i], path + "[" + i + "]", depth + 1, true, false);
      return;
    }
    if (isFinal && mapGet(ours, value.toJSON))
      throw new NotAValue(path, "toJSON returned an object that is not plain data: return plain objects and arrays there");
    if (value instanceof DateHere) {
      const time = timeOf(value);
      if (time !== time) throw new NotAValue(path, "an invalid Date: return null");
      return;
    }
    if (value instanceof BufferHere || isView(value)) return;
    if (value instanceof NumberHere) { look(+value, path, depth + 1, isItem, true); return }
    if (value instanceof StringHere || value instanceof BooleanHere) return;
    if (value instanceof MapHere || value instanceof SetHere || value instanceof PromiseHere
        || value instanceof RegExpHere || value instanceof ErrorHere || value instanceof WeakMap || value instanceof WeakSet)
      if (!hasOwnToJSON(value)) refuse(path, kindOf(value));
    if (!isFinal && hasOwnToJSON(value)) { look(value.toJSON(""), path, depth + 1, isItem, true); return }
    const names = keys(value);
    if (names.length === 0) refuseEmptied(value, path);
    for (let i = 0; i < names.length; i++) {
      const item = value[names[i]];
      if (typeof item !== "symbol") look(item, path + "." + slice(names[i], 0, 64), depth + 1, false, false);
    }
  }
  // Iterators, generators, a Response, a WeakRef: JSON.stringify finds nothing in them and writes {}. An object of the
  // plugin's own class that has nothing to show is no such thing.
  function refuseEmptied(value, path) {
    const made = getPrototypeOf(value), kind = value[toStringTag];
    if (made === objectPrototype || made === null || typeof kind !== "string") return;
    const instead = endsWith(kind, "Iterator") || kind === "Generator" || kind === "URLSearchParams"
      ? "write [...value]" : "return plain data";
    throw new NotAValue(path, "an object of the kind " + slice(kind, 0, 64) + ", which cannot be carried: " + instead);
  }
  // JSON.stringify writes null for NaN, and {} for what it finds nothing in. Whether either can have happened: not where
  // the one {} is the metadata that most hooks leave empty.
  function mayHideSomething(text, value) {
    if (includes(text, "null")) return true;
    const at = indexOf(text, "{}");
    return at >= 0 && (at !== text.length - "{}}}".length || !isEmpty(value.metadata));
  }
  const isEmpty = (value) => typeof value === "object" && value !== null && getPrototypeOf(value) === objectPrototype
    && value.toJSON === undefined && keys(value).length === 0;
  // Whether `look` might find something: a shorter walk without paths, which every result that holds a null takes.
  function mayBeLost(value, depth) {
    const kind = typeof value;
    if (kind === "string") return false;
    if (kind !== "object") return kind === "number" ? !isFinite(value) : kind !== "boolean";
    if (value === null) return false;
    if (depth > DEPTH_MAX || value.toJSON !== undefined) return true;
    if (isArray(value)) {
      for (let i = 0; i < value.length; i++) if (mayBeLost(value[i], depth + 1)) return true;
      return false;
    }
    const made = getPrototypeOf(value);
    if (made !== objectPrototype && made !== null) return true;
    const names = keys(value);
    for (let i = 0; i < names.length; i++) {
      const item = value[names[i]];
      if (item !== undefined && typeof item !== "symbol" && mayBeLost(item, depth + 1)) return true; // both are left out
    }
    return false;
  }
  const hasOwnToJSON = (value) => {
    const f = value.toJSON;
    return typeof f === "function" && !mapGet(ours, f);
  };

  // JSON.stringify of the engine does the work. What it would quietly change is caught by a toJSON of those classes,
  // which acts only while we encode, and only if JSON.stringify calls it (with a key): a getter or a toJSON of the plugin
  // may call it, too. What JSON.stringify writes as null or {} is looked at once more.
  const ours = new MapHere();
  let encoding = false;
  const catchIn = (prototype, encoded, plain) => {
    const toJSON = { toJSON(key) { return encoding && key !== undefined ? encoded(this) : plain(this, key) } }.toJSON;
    mapSet(ours, toJSON, true);
    hide(prototype, "toJSON", toJSON);
  };
  const plainly = (value) => ({ ...value });
  const dateToJSON = uncurried(Date.prototype.toJSON);
  const BYTES = host.mark + "b", DATE = host.mark + "d";
  catchIn(Date.prototype, (value) => {
    const time = timeOf(value);
    if (time !== time) throw new NotAValue("$", "an invalid Date");
    return { [DATE]: time };
  }, dateToJSON);
  const viewBytes = (view) => ({ [BYTES]: toBase64(internals.base.bytesOf(view)) });
  catchIn(getPrototypeOf(Uint8Array.prototype), viewBytes, plainly);
  catchIn(DataView.prototype, viewBytes, plainly);
  catchIn(ArrayBuffer.prototype, (value) => ({ [BYTES]: toBase64(new BytesHere(value)) }), plainly);
  catchIn(BigInt.prototype, (value) => {
    if (value > INTEGER_MAX || value < -INTEGER_MAX) tooLarge("$");
    return NumberHere(value);
  }, () => { throw new TypeErrorHere("Do not know how to serialize a BigInt") });
  const CLASSES = [Map, Set, WeakMap, WeakSet, RegExp, Error, Promise];
  for (let i = 0; i < CLASSES.length; i++) {
    const name = CLASSES[i].name;
    catchIn(CLASSES[i].prototype, () => refuse("$", name), plainly);
  }
  catchIn(Function.prototype, () => refuse("$", "function"), () => undefined);

  // The plugin's own JSON.stringify, which a getter or a toJSON may call while we encode. Its text is the plugin's, so no
  // mark of ours may be in it.
  hide(JSON, "stringify", { stringify(value, replacer, space) {
    if (!encoding) return stringify(value, replacer, space);
    encoding = false;
    try { return stringify(value, replacer, space) } finally { encoding = true }
  } }.stringify);

  // `value` as JSON inside `around`, which begins with what the worker is told. Throws NotAValue. A getter that makes an
  // API call comes here while we encode.
  function encoded(around, value) {
    if (typeof value === "symbol") refuse("$", "symbol");
    const outer = encoding;
    let text;
    encoding = true;
    try { text = stringify(around) } catch (error) {
      encoding = false;
      if (error === null || error instanceof InternalErrorHere) throw error;
      look(value, "$", 0, false, false);
      if (error instanceof NotAValue || !(error instanceof TypeErrorHere || error instanceof RangeError)) throw error;
      throw new NotAValue("$", StringHere(error.message));
    } finally { encoding = outer }
    if (mayHideSomething(text, value) && mayBeLost(value, 0)) look(value, "$", 0, false, false);
    return text;
  }

  // ------------------------------------------------------------------ values in
  function revived(value) {
    if (value === null || typeof value !== "object") return value;
    if (isArray(value)) {
      for (let i = 0; i < value.length; i++) value[i] = revived(value[i]);
      return value;
    }
    const names = keys(value);
    if (names.length === 1) {
      if (names[0] === DATE) return new DateHere(value[DATE]);
      if (names[0] === BYTES) return fromBase64(value[BYTES]);
    }
    for (let i = 0; i < names.length; i++) own(value, names[i], revived(value[names[i]]));
    return value;
  }
  const decoded = (text, marked) => {
    if (typeof text !== "string") throw null; // there was no room for it
    return marked ? revived(parse(text)) : parse(text);
  };

  // ------------------------------------------------------------------ errors
  class ApiError extends Error {
    constructor(code, message, method, retryAfterMs) {
      super(message || code);
      hide(this, "name", new.target.name);
      this.code = code;
      this.method = method;
      this.retryAfterMs = retryAfterMs;
    }
  }
  class PermissionDenied extends ApiError {}
  class RateLimited extends ApiError {}
  class DeadlineExceeded extends ApiError {}
  class InvalidOutput extends ApiError {}
  const KINDS = {
    __proto__: null, permission_denied: PermissionDenied, rate_limited: RateLimited,
    deadline_exceeded: DeadlineExceeded, invalid_output: InvalidOutput,
  };
  const errorOf = (code, message, method, retryAfterMs, stack) => {
    const error = new (KINDS[code] ?? ApiError)(code, message, method, retryAfterMs);
    hide(error, "stack", stack ?? "");
    return error;
  };
  // The plugin's own frames: ours are those of the prelude, of the engine's built-in functions, and what evaluates.
  function framesOf(stack) {
    const lines = split(stack, "\n"), kept = [];
    for (let i = 0; i < lines.length; i++) {
      const line = lines[i];
      if (line === "" || includes(line, "apex:") || endsWith(line, " (native)") || includes(line, "<input>")) continue;
      own(kept, kept.length, line);
    }
    return join(kept, "\n");
  }
  const textOf = (error) => StringHere(error.message) + internals.explain(error);
  const titleOf = (error) => {
    const name = StringHere(error.name), text = textOf(error);
    return text ? name + ": " + text : name;
  };
  const traceOf = (error) => {
    const frames = framesOf(StringHere(error.stack ?? ""));
    return frames ? titleOf(error) + "\n" + frames : titleOf(error);
  };
  // Messages have no prototype: a toJSON that a plugin gave to Object.prototype or Array.prototype does not reach them.
  const message = stringify;
  const thrown = (name, text, trace, api = null) =>
    message({ __proto__: null, k: "x", name, text, trace, code: api ? api.code : "", method: api ? api.method : "", retry: api ? api.retry : 0, memory: false });
  const OUT_OF_MEMORY = message({ __proto__: null, k: "x", name: "InternalError", text: "out of memory", trace: "", code: "", method: "", retry: 0, memory: true });
  // What the worker is told of something thrown. Its text and its stack may be lies; only their size is bounded.
  function told(error) {
    if (error === null) return OUT_OF_MEMORY; // what the engine throws if there is no room for an error
    if (error instanceof NotAValue) return message({ __proto__: null, k: "v", path: slice(error.path, 0, 200), why: slice(StringHere(error.message), 0, 1000) });
    try {
      if (error instanceof InvalidOutput && error.code === "invalid_output") {
        const place = pathOf(StringHere(error.message));
        return message({ __proto__: null, k: "v", path: place.path, why: place.why });
      }
      if (!(error instanceof ErrorHere)) return thrown("Error", slice(show(error, 0), 0, 1000), "");
      const name = StringHere(error.name);
      if (error instanceof InternalErrorHere && error.message === "out of memory") return OUT_OF_MEMORY;
      let text = textOf(error), trace = traceOf(error), cause = error.cause;
      for (let i = 0; cause instanceof ErrorHere && i < 8; i++) {
        trace = trace + "\nCaused by: " + traceOf(cause);
        cause = cause.cause;
      }
      if (error instanceof AggregateErrorHere) text = text + " " + show(error.errors, 1);
      const api = error instanceof ApiError
        ? { code: slice(StringHere(error.code), 0, 64), method: slice(StringHere(error.method), 0, 200), retry: +error.retryAfterMs || 0 } : null;
      return thrown(slice(name, 0, 200), slice(text, 0, 1000), slice(trace, 0, 8192), api);
    } catch (second) {
      if (second === null) return OUT_OF_MEMORY;
      return thrown("Error", "(the error's text is unavailable)", "");
    }
  }
  const pathOf = (text) => {
    for (let i = 0; i < text.length && i < 220; i++)
      if (text[i] === ":") return text[0] === "$" ? { path: slice(text, 0, i), why: slice(text, i + 2) } : { path: "$", why: text };
    return { path: "$", why: text };
  };

  // ------------------------------------------------------------------ console
  function show(value, depth, outer) {
    switch (typeof value) {
      case "string": return depth ? stringify(value) : value;
      case "function": return "[Function: " + (value.name || "(anonymous)") + "]";
      case "bigint": return value + "n";
      case "object": break;
      default: return StringHere(value);
    }
    if (value === null) return "null";
    if (value instanceof ErrorHere) return traceOf(value);
    for (let one = outer; one; one = one.outer) if (one.value === value) return "[Circular]";
    if (depth > 3) return isArray(value) ? "[Array]" : "[Object]";
    const here = { value, outer };
    let text = "";
    const add = (part) => { text = text ? text + ", " + part : part };
    if (isArray(value)) {
      for (let i = 0; i < value.length && i < 100; i++) add(show(value[i], depth + 1, here));
      return value.length > 100 ? "[ " + text + ", … ]" : text ? "[ " + text + " ]" : "[]";
    }
    if (value instanceof DateHere) return timeOf(value) === timeOf(value) ? isoOf(value) : "Invalid Date";
    if (value instanceof RegExpHere) return StringHere(value);
    if (value instanceof MapHere) value.forEach((item, key) => add(show(key, depth + 1, here) + " => " + show(item, depth + 1, here)));
    else if (value instanceof SetHere) value.forEach((item) => add(show(item, depth + 1, here)));
    else {
      const names = keys(value);
      for (let i = 0; i < names.length && i < 50; i++) add(names[i] + ": " + show(value[names[i]], depth + 1, here));
    }
    const made = value.constructor, name = typeof made === "function" && made !== Object ? made.name + " " : "";
    return text ? name + "{ " + text + " }" : name + "{}";
  }
  const LINE_CHARS_MAX = 8192, REJECTED_MAX = 64, REJECTED = "__" + host.mark;
  function format(args) {
    let text = "", next = 0;
    if (typeof args[0] === "string") {
      const pattern = args[next++];
      if (args.length === 1 || !includes(pattern, "%")) text = pattern;
      else {
        const parts = split(pattern, "%");
        text = parts[0];
        for (let i = 1; i < parts.length; i++) {
          const part = parts[i], letter = part[0];
          if (part === "" && i + 1 < parts.length) { text = text + "%" + parts[++i]; continue }
          const known = letter === "s" ? 0 : letter === "d" || letter === "i" || letter === "f" ? 2
            : letter === "o" || letter === "O" || letter === "j" ? 1 : -1;
          if (known < 0 || next >= args.length) { text = text + "%" + part; continue }
          const value = args[next++];
          text = text + (known === 2 ? StringHere(NumberHere(value)) : show(value, known)) + slice(part, 1);
        }
      }
    }
    for (; next < args.length; next++) text = next ? text + " " + show(args[next], 0) : show(args[next], 0);
    return text;
  }
  const say = (level, args) => {
    let text;
    try { text = slice(wellFormed(format(args)), 0, LINE_CHARS_MAX) } catch (error) {
      if (error === null) throw error;
      text = "(a value that cannot be shown)";
    }
    host.line(level, stringify(text));
  };
  const console = {};
  const LEVELS = {
    __proto__: null, log: "info", info: "info", debug: "debug", trace: "debug", warn: "warning", warning: "warning",
    error: "error", dir: "info", table: "info", group: "info", groupCollapsed: "info",
  };
  for (const name in LEVELS) hide(console, name, { [name](...args) { say(LEVELS[name], args) } }[name]);
  const counts = new MapHere(), times = new MapHere();
  const METHODS = {
    assert(truth, ...args) { if (!truth) say("error", ["Assertion failed: " + format(args)]) },
    count(label = "default") {
      const count = (mapGet(counts, label) ?? 0) + 1;
      mapSet(counts, label, count);
      say("info", [label + ": " + count]);
    },
    countReset(label = "default") { mapDelete(counts, label) },
    time(label = "default") { mapSet(times, label, host.clock()) },
    timeLog(label = "default") { say("info", [label + ": " + (host.clock() - mapGet(times, label)) + " ms"]) },
    timeEnd(label = "default") { METHODS.timeLog(label); mapDelete(times, label) },
    groupEnd() {},
  };
  for (const name in METHODS) hide(console, name, METHODS[name]);
  hide(globalThis, "console", console);

  // ------------------------------------------------------------------ timers
  let timers = null, lastTimer = 0; // the next one first
  function later(call, ms, args, every) {
    if (typeof call !== "function") throw new TypeErrorHere("the callback is not a function");
    const wait = ms > 0 && isFinite(+ms) ? +ms : 0;
    const timer = { id: ++lastTimer, at: host.clock() + wait, call, args, every: every ? (wait > 1 ? wait : 1) : 0, owner: running, next: null };
    if (running !== null && running.answer !== null) put(timer);
    return timer.id;
  }
  function put(timer) {
    if (timers === null || timers.at > timer.at) { timer.next = timers; timers = timer; return }
    let before = timers;
    while (before.next !== null && before.next.at <= timer.at) before = before.next;
    timer.next = before.next;
    before.next = timer;
  }
  function forget(id) {
    if (timers === null) return;
    if (timers.id === id) { timers = timers.next; return }
    for (let before = timers; before.next !== null; before = before.next)
      if (before.next.id === id) { before.next = before.next.next; return }
  }
  const TIMERS = {
    setTimeout(call, ms, ...args) { return later(call, ms, args, false) },
    setInterval(call, ms, ...args) { return later(call, ms, args, true) },
    clearTimeout(id) { forget(id) },
    clearInterval(id) { forget(id) },
  };
  for (const name in TIMERS) { internals[name] = TIMERS[name]; hide(globalThis, name, TIMERS[name]) }

  // ------------------------------------------------------------------ what the engine runs by itself
  const microtask = globalThis.queueMicrotask, Registry = FinalizationRegistry;
  const AS_GLOBALS = {
    // What the callback throws fails the call, as in a timer.
    queueMicrotask(call) {
      if (typeof call !== "function") throw new TypeErrorHere("the callback is not a function");
      const mine = running;
      microtask(() => { try { call() } catch (error) { fail(mine, error) } });
    },
    // A finalizer may come up in any later call. It runs at that call's end, where `plugin.api` is nobody's, and what it
    // throws fails nobody.
    FinalizationRegistry: function (callback) {
      if (new.target === undefined) throw new TypeErrorHere("a FinalizationRegistry is made by new");
      if (typeof callback !== "function") throw new TypeErrorHere("the callback is not a function");
      return construct(Registry, [(held) => {
        const one = { callback, held, next: null };
        if (finalized === null) finalized = one; else lastFinalized.next = one;
        lastFinalized = one;
      }], new.target);
    },
  };
  let finalized = null, lastFinalized = null;
  for (const name in AS_GLOBALS) hide(globalThis, name, AS_GLOBALS[name]);
  defineProperty(FinalizationRegistry, "prototype", { __proto__: null, value: Registry.prototype, writable: false });
  hide(Registry.prototype, "constructor", FinalizationRegistry);
  // Frames of a stack give the functions that run, and ours are below the plugin's.
  Error.prepareStackTrace = (_error, frames) => frames;
  hide(getPrototypeOf(new Error("").stack[0]), "getFunction", { getFunction() {} }.getFunction);
  Error.prepareStackTrace = undefined;

  // ------------------------------------------------------------------ the platform's API
  let running = null; // the call whose code runs; null between calls, and between steps of calls
  const frozen = (value) => {
    if (value === null || typeof value !== "object") return value;
    const names = keys(value);
    for (let i = 0; i < names.length; i++) frozen(value[names[i]]);
    return freeze(value);
  };
  let configured = freeze({}); // the settings of the call that begins next
  let several = false; // whether the worker has several calls open at once
  let follow = then; // `then`, or the one of shared.js
  let asked = null, lastAsked = null; // API calls that the worker has not taken yet
  let waiting = new MapHere(), unanswered = 0, lastNumber = 0;
  const OVER = "the call that this context belongs to is over";
  const LOADING = -1; // the `seq` of the plugin's load
  const REFUSED_MAX = 100; // later ones are never settled, or a loop that tries again at once would have no end
  const queue = (text) => {
    const call = { text, next: null };
    if (asked === null) asked = call; else lastAsked.next = call;
    lastAsked = call;
  };
  // `ender` is given a function by which the call ends if nobody waits for its answer any longer.
  function ask(owner, method, params, ender) {
    const at = { stack: "" };
    captureStackTrace(at, ask);
    let made = null;
    const promise = new PromiseHere((resolve, reject) => {
      if (owner !== null && owner.seq === LOADING) {
        reject(errorOf("cancelled", "the platform's API is there for hooks, and not while a plugin loads", method, 0, framesOf(at.stack)));
        return;
      }
      if (owner === null || owner.answer === null) {
        if (several && owner !== null && (owner.refused = (owner.refused ?? 0) + 1) > REFUSED_MAX) return;
        reject(errorOf("cancelled", OVER, method, 0, framesOf(at.stack)));
        return;
      }
      const number = ++lastNumber;
      let text;
      try { text = encoded({ __proto__: null, k: "a", number, seq: owner.seq, method, params }, params) } catch (error) {
        if (!(error instanceof NotAValue)) { reject(error); return }
        if (EFFECTS[method]) queue(message({ __proto__: null, k: "t", seq: owner.seq, method }));
        reject(errorOf(CARRIED[method] ? "invalid_output" : "invalid_params", error.path + ": " + error.message, method, 0,
                       framesOf(at.stack)));
        return;
      }
      queue(text);
      made = { resolve, reject, method, at, owner, promise: null };
      mapSet(waiting, number, made);
      unanswered++;
      if (several) owner.unanswered = (owner.unanswered ?? 0) + 1;
      if (ender !== undefined) ender(() => {
        if (owner.answer !== "" || mapGet(waiting, number) === undefined) return;
        mapDelete(waiting, number);
        unanswered--;
        if (several) owner.unanswered--;
        queue(message({ __proto__: null, k: "c", number, seq: owner.seq }));
      });
    });
    if (made !== null) made.promise = promise;
    return promise;
  }
  // What fetch answers, with functions that read the body as the plugin needs it. `raw` is there if the body is a text of
  // another charset than UTF-8. They are not enumerable: a reply that a hook returns is {status, headers, body}.
  function readable(reply) {
    const { body, raw = body } = reply, text = () => typeof body === "string" ? body : internals.parts.text().decode(body, false);
    delete reply.raw;
    hide(reply, "raw", raw);
    hide(reply, "text", text);
    hide(reply, "json", () => { const all = text(); return parse(codeAt(all, 0) === 0xfeff ? slice(all, 1) : all) });
    hide(reply, "bytes", () => typeof raw === "string" ? internals.parts.text().encode(raw) : new BytesHere(raw));
    return reply;
  }
  const isObject = (value) => value !== null && typeof value === "object";
  const isOnly = (value, key) => isObject(value) && !isArray(value) && hasOwn(value, key) && keys(value).length === 1;
  const asText = StringHere;
  // The API as the daemon's catalogue has it, written by `python -m apex_exec.catalogue`.
  // <api>
  const CARRIED = { __proto__: null, renderWidget: true, emit: true, "storage.set": true, call: true };
  const EFFECTS = { __proto__: null, renderWidget: true, emit: true };
  class Storage {
    #owner;
    constructor(owner) { this.#owner = owner }
    #ask(method, params) { return ask(this.#owner ?? running, method, params) }
    get(key, { common = false } = {}) { return this.#ask("storage.get", ({ key, common })) }
    set(key, value, { common = false } = {}) { return this.#ask("storage.set", ({ key, value, common })) }
    delete(key, { common = false } = {}) { return this.#ask("storage.delete", ({ key, common })) }
    list({ prefix = '', after = '', limit = 200, common = false } = {}) { return this.#ask("storage.list", ({ prefix, after, limit, common })) }
  }
  freeze(Storage.prototype);
  class Api {
    #owner;
    constructor(owner) { this.#owner = owner }
    #ask(method, params) { return ask(this.#owner ?? running, method, params) }
    query(sql, params = []) { return this.#ask("query", ({ sql, params })) }
    insert(table, values, { returning } = {}) { return this.#ask("insert", ({ table, values, returning })) }
    upsert(table, values, { on, update, returning } = {}) { return this.#ask("upsert", ({ table, values, on, update, returning })) }
    update(table, values, where, { returning } = {}) { return this.#ask("update", ({ table, values, where, returning })) }
    delete(table, where, { returning } = {}) { return this.#ask("delete", ({ table, where, returning })) }
    renderWidget(widget, props) { return this.#ask("renderWidget", isObject(widget) ? { component: widget.component, props: widget.props ?? {} } : { component: widget, props: props ?? {} }) }
    emit(event, message = null) { return this.#ask("emit", ({ event, payload: isOnly(message, 'payload') ? message.payload ?? null : message })) }
    fetch(url, { method = 'GET', headers = {}, body = null, timeoutMs, retry, readAs } = {}) { return this.#ask("fetch", ({ url: asText(url), method, headers, body, timeout_ms: timeoutMs, retry, read_as: readAs })) }
    call(method, params = {}) { return this.#ask("call", ({ method, params })) }
    get storage() { return new Storage(this.#owner) }
  }
  freeze(Api.prototype);
  // </api>
  const plugin = {
    api: freeze(new Api(null)), errors: freeze({ ApiError, PermissionDenied, RateLimited, DeadlineExceeded, InvalidOutput }),
  };
  hide(globalThis, "plugin", plugin);

  // ------------------------------------------------------------------ what the plugin is
  let hooks = null, table = null;
  function adopt(module) {
    const found = module.default;
    const wanted = "write `export default { id, version, permissions, hooks }`";
    if (found === undefined) throw new TypeErrorHere("the entry point has no default export: " + wanted);
    if (!isObject(found) || isArray(found)) throw new TypeErrorHere("the default export is " + (found === null ? "null" : isArray(found) ? "an array" : typeof found === "function" ? "a function or a class" : ("a " + (typeof found))) + ", not an object: " + wanted);
    const { id, version, permissions = [], hooks: functions } = found;
    if (typeof id !== "string" || typeof version !== "string") throw new TypeErrorHere("the default export has no id or version that is a string: " + wanted);
    if (!isArray(permissions)) throw new TypeErrorHere("`permissions` of the default export is not an array of strings");
    for (let i = 0; i < permissions.length; i++) if (typeof permissions[i] !== "string") throw new TypeErrorHere("`permissions` of the default export is not an array of strings");
    if (!isObject(functions) || isArray(functions)) throw new TypeErrorHere("`hooks` of the default export is not an object of functions by hook");
    const names = keys(functions), known = { __proto__: null };
    if (names.length === 0) throw new TypeErrorHere("`hooks` of the default export is empty");
    for (let i = 0; i < names.length; i++) {
      if (typeof functions[names[i]] !== "function") throw new TypeErrorHere("the hook " + slice(names[i], 0, 100) + " is not a function");
      known[names[i]] = functions[names[i]];
    }
    hooks = known;
    table = functions;
    hide(plugin, "id", id);
    hide(plugin, "version", version);
    freeze(plugin);
    return message({ __proto__: null, k: "r", v: { __proto__: null, id, version, permissions: join(permissions, "\n"), hooks: join(names, "\n") } });
  }

  // ------------------------------------------------------------------ what the worker calls
  const SHORT = 4096; // chars of an answer that is returned at once, and therefore kept until the next call
  const succeed = (mine, value) => {
    if (mine.answer !== "") return;
    try { mine.answer = encoded({ __proto__: null, k: "r", v: value }, value) } catch (error) { mine.answer = told(error) }
    if (several) append(mine);
  };
  const fail = (mine, error) => {
    if (mine === null || mine.answer !== "") return;
    mine.answer = told(error);
    if (several) append(mine);
  };
  // What there is to do, as JSON. k is "a": make an API call (number, seq, method, params) · "c": end one (number, seq) · "t": an effect was refused in the engine (seq, method) · "r", "v" or "x": what came of
  // it all: a value, no value (path, why), or something thrown · "w": wait for replies, if there are any, and for the next
  // timer (in ms; −1: there is none) · "l": run the jobs and ask again · "n": nothing can happen any more.
  function step() {
    if (asked !== null) { const { text } = asked; asked = asked.next; return text }
    if (running !== null && running.answer) {
      const said = running.answer;
      end();
      return said;
    }
    if (timers !== null) { const ms = timers.at - host.clock(); return message({ __proto__: null, k: "w", ms: ms > 0 ? ms : 0 }) }
    if (unanswered) return '{"k":"w","ms":-1}';
    return running !== null && listenAgain(running) ? '{"k":"l"}' : '{"k":"n"}';
  }
  // Where memory runs out while a promise is settled, the engine drops what was to follow. So we ask once more.
  function listenAgain(mine) {
    const { listen } = mine;
    if (listen === undefined) return false;
    mine.listen = undefined;
    running = mine;
    listen();
    return true;
  }
  function end() {
    if (running !== null) { running.answer = null; running = null }
    timers = asked = lastAsked = null;
    if (unanswered) { waiting = new MapHere(); unanswered = 0 }
  }
  // `answer` is what came of the hook, or of loading; "" while nothing has, null when the call is over. What few calls
  // have (`listen`, `unanswered`, `refused`) is added by them: every property costs each call.
  function begin(seq) {
    if (!several) end();
    return running = { seq, answer: "" };
  }

  // ------------------------------------------------------------------ several calls at once
  const open = new MapHere(); // seq → call
  let ended = null, lastEnded = null; // calls whose answers the worker has not taken yet
  let ready = null, lastReady = null; // what is to run in a step of its own, each with its call
  const append = (owner) => {
    const one = { owner, next: null };
    if (ended === null) ended = one; else lastEnded.next = one;
    lastEnded = one;
  };
  internals.steps = {
    now() { return running },
    post(owner, go) {
      const one = { owner, go, next: null };
      if (ready === null) ready = one; else lastReady.next = one;
      lastReady = one;
    },
  };
  // The call is answered, or never will be. Its timers go, and what it still waits for is rejected, so that another call
  // which waits for the same promise hears of it. What that wakes runs as this call, which has no API any more.
  function close(mine) {
    mine.answer = null;
    mapDelete(open, mine.seq);
    running = mine;
    while (timers !== null && timers.owner === mine) timers = timers.next;
    for (let before = timers; before !== null && before.next !== null;)
      if (before.next.owner === mine) before.next = before.next.next; else before = before.next;
    if (!mine.unanswered) return;
    mapEach(waiting, (one, number) => {
      if (one.owner !== mine) return;
      mapDelete(waiting, number);
      unanswered--;
      then(one.promise, undefined, () => {}); // nobody has to handle this one
      one.reject(errorOf("cancelled", OVER, one.method, 0, framesOf(one.at.stack)));
    });
    mine.unanswered = 0;
  }
  // What `shared.py` calls. In `step`, "r", "v" or "x" is the answer of the call that `whose` names, which has no say
  // from then on · "g": something of call `seq` is ready, to be run by `go` · "f": finalizers are, to be
  // run by `rest` · "w" has the `seq` of its timer · "n": none of the open calls can ever go on.
  let lastAnswered = LOADING;
  const shared = {
    step() {
      if (asked !== null) { const { text } = asked; asked = asked.next; return text }
      while (ended !== null) {
        const mine = ended.owner, { answer } = mine;
        ended = ended.next;
        if (answer === null) continue;
        lastAnswered = mine.seq;
        close(mine);
        return answer;
      }
      if (finalized !== null) return '{"k":"f"}';
      if (ready !== null) return message({ __proto__: null, k: "g", seq: ready.owner.seq });
      if (timers !== null) {
        const ms = timers.at - host.clock();
        return message({ __proto__: null, k: "w", ms: ms > 0 ? ms : 0, seq: timers.owner.seq });
      }
      if (unanswered) return '{"k":"w","ms":-1}';
      let again = false;
      mapEach(open, (mine) => { again = again || listenAgain(mine) });
      return again ? '{"k":"l"}' : '{"k":"n"}';
    },
    go() {
      const one = ready;
      if (one === null) return;
      ready = one.next;
      running = one.owner;
      one.go();
    },
    whose() { return lastAnswered },
    cancel(seq) {
      const mine = mapGet(open, seq);
      if (mine !== undefined) close(mine);
    },
  };
  internals.worker = {
    // Modules are run from here: a host function may be called beneath calls of the wheel's only.
    load(name) {
      const mine = begin(LOADING);
      const module = import(name);
      const adopted = (loaded) => {
        if (mine.answer !== "") return;
        try { mine.answer = adopt(loaded) } catch (error) { fail(mine, error) }
      };
      mine.listen = () => then(module, adopted, (error) => fail(mine, error));
      mine.listen();
    },
    // Gives the call that begins next its settings, which nothing can change.
    configure(text) { configured = frozen(parse(text)) },
    // Returns the answer of a hook that has ended, as `step` would, or "". It counts if no job is pending.
    call(hook, text, marked, userId, deadlineMs, seq) {
      const mine = begin(seq);
      if (several) mapSet(open, seq, mine);
      try {
        const params = text === "{}" ? {} : decoded(text, marked);
        const context = {
          ...params, userId, pluginId: plugin.id, hook, params, api: new Api(mine), log: console, settings: configured,
          remainingMs() { return deadlineMs - host.clock() },
        };
        if (hasOwn(params, "__proto__")) delete context.__proto__;
        if (hasOwn(params, "constructor")) delete context.constructor;
        const value = apply(hooks[hook], table, [context]);
        if (value instanceof PromiseHere || (isObject(value) && typeof value.then === "function")) {
          const promise = value instanceof PromiseHere ? value : resolved(value);
          mine.listen = () => follow(promise, (got) => succeed(mine, got), (error) => fail(mine, error));
          mine.listen();
          return "";
        }
        succeed(mine, value);
      } catch (error) { fail(mine, error) }
      return asked === null && timers === null && unanswered === 0 && mine.answer.length < SHORT && !several ? mine.answer : "";
    },
    step,
    // Called twice in a worker that is to have several calls open at once: before the plugin is loaded, and after it.
    share(isLoaded) {
      several = isLoaded;
      if (isLoaded) return;
      follow = internals.parts.shared();
      everything.__shared = shared;
    },
    // The end of a call that was not answered at once: finalizers run, those that they bring about when it is called again.
    rest() {
      if (several) running = null; else end();
      let one = finalized;
      finalized = lastFinalized = null;
      for (; one !== null; one = one.next) try { apply(one.callback, undefined, [one.held]) } catch { /* nobody's */ }
    },
    settle(number, ok, text, marked) {
      const call = mapGet(waiting, number);
      if (call === undefined) return;
      mapDelete(waiting, number);
      unanswered--;
      if (several) call.owner.unanswered--;
      running = call.owner;
      if (ok) {
        const value = decoded(text, marked);
        call.resolve(call.method === "fetch" && isObject(value) && hasOwn(value, "body") ? readable(value) : value);
        return;
      }
      const { code, message: why, retry } = parse(text);
      call.reject(errorOf(code, why, call.method, retry, framesOf(call.at.stack)));
    },
    fire() {
      const timer = timers;
      if (timer === null || timer.at > host.clock()) return;
      timers = timer.next;
      running = timer.owner;
      if (timer.every) { timer.at = host.clock() + timer.every; put(timer) }
      try { apply(timer.call, undefined, timer.args) } catch (error) { fail(running, error) }
    },
    // Writes what the first of `count` promises was rejected with that nobody has handled: a global of a secret name.
    reject(count) {
      const error = everything[REJECTED];
      delete everything[REJECTED];
      let text;
      try {
        text = error instanceof ErrorHere ? traceOf(error)
          : show(error, 1) + " (this is not an Error, so its place is not known: reject with new Error(…))";
      } catch (second) {
        if (second === null) throw second;
        text = "(the error's text is unavailable)";
      }
      const others = count > 1 ? " (the first of " + count + (count < REJECTED_MAX ? ")" : " or more)") : "";
      say("warning", ["a promise was rejected and nobody handled it" + others + ": " + text]);
    },
  };
  internals.ask = (method, params, made) => ask(running, method, params, made);
  internals.show = show;
  internals.hide = hide;
  internals.ApiError = ApiError;
})
