// The language's own functions as they were before any plugin code ran, and the globals' names.
//
// A global is made when it is first used, from a file of its own ("part"), so a new engine pays for none. The parts call
// the copies kept here: a plugin that changes `String.prototype` or `Array.prototype` changes what its own code does, and
// nothing of what the globals do. For the same reason parts spread no arrays, take none apart by `[a, b]`, and use
// `for … of` only on what the plugin hands over: all of these ask `Array.prototype[Symbol.iterator]`.
(function (host, internals) {
  "use strict";
  const { defineProperty, getPrototypeOf, keys, prototype: object } = Object;
  const uncurry = Function.prototype.bind.bind(Function.prototype.call); // uncurry(f)(self, a) is f.call(self, a)
  const getter = uncurry(object.__lookupGetter__);
  const text = String.prototype, list = Array.prototype, map = Map.prototype, view = DataView.prototype;
  const bytes = getPrototypeOf(Uint8Array.prototype), buffer = ArrayBuffer.prototype;

  // Called with the object first: slice("text", 1).
  const METHODS = {
    __proto__: null,
    charCodeAt: text.charCodeAt, codePointAt: text.codePointAt, indexOf: text.indexOf, lastIndexOf: text.lastIndexOf,
    slice: text.slice, toLowerCase: text.toLowerCase, toUpperCase: text.toUpperCase, toWellFormed: text.toWellFormed,
    normalize: text.normalize, exec: RegExp.prototype.exec, join: list.join, sort: list.sort,
    then: Promise.prototype.then, toBase64: Uint8Array.prototype.toBase64, toHex: Uint8Array.prototype.toHex,
    setBytes: bytes.set, mapGet: map.get, mapSet: map.set, mapHas: map.has, mapDelete: map.delete, mapEach: map.forEach,
    setAdd: Set.prototype.add, setEach: Set.prototype.forEach, timeOf: Date.prototype.getTime,
    isBefore: object.isPrototypeOf, transfer: buffer.transfer,
    booleanOf: Boolean.prototype.valueOf, numberOf: Number.prototype.valueOf, stringOf: text.valueOf,
    bigintOf: BigInt.prototype.valueOf,
    bufferOf: getter(bytes, "buffer"), offsetOf: getter(bytes, "byteOffset"), sizeOf: getter(bytes, "byteLength"),
    lengthOf: getter(bytes, "length"), kindOf: getter(bytes, Symbol.toStringTag), viewBuffer: getter(view, "buffer"),
    viewOffset: getter(view, "byteOffset"), viewSize: getter(view, "byteLength"),
    bufferSize: getter(buffer, "byteLength"), bufferSizeMax: getter(buffer, "maxByteLength"),
    isResizable: getter(buffer, "resizable"), isDetached: getter(buffer, "detached"),
    sharedSize: getter(SharedArrayBuffer.prototype, "byteLength"), sourceOf: getter(RegExp.prototype, "source"),
    flagsOf: getter(RegExp.prototype, "flags"),
  };
  const VALUES = {
    __proto__: null,
    uncurry, defineProperty, getPrototypeOf, keys, hasOwn: Object.hasOwn, apply: Reflect.apply, isArray: Array.isArray,
    isView: ArrayBuffer.isView, parse: JSON.parse, stringify: JSON.stringify, iterator: Symbol.iterator,
    fromCharCode: String.fromCharCode, fromCodePoint: String.fromCodePoint, fromBase64: Uint8Array.fromBase64,
    encodeURIComponent, decodeURIComponent, escape, unescape, atob, btoa, parseInt,
    Object, Boolean, Number, String, BigInt, Symbol, Map, Set, WeakMap, WeakSet, WeakRef, Date, RegExp, Promise, ArrayBuffer,
    SharedArrayBuffer, DataView, DOMException, InternalError,
    VIEWS: { __proto__: null, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array,
      Uint32Array, Float16Array, Float32Array, Float64Array, BigInt64Array, BigUint64Array },
    ERRORS: { __proto__: null, Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError },
    Uint8Array, Error, RangeError, TypeError,
  };
  const everything = globalThis;

  // A global as the language makes its own: writable, configurable, not enumerable.
  const define = (target, name, value) =>
    defineProperty(target, name, { __proto__: null, value, writable: true, configurable: true, enumerable: false });

  // What the parts share; made for the first of them.
  let base;
  const build = () => {
    const made = VALUES;
    for (const name in METHODS) made[name] = uncurry(METHODS[name]);
    const { isView, kindOf, bufferOf, offsetOf, sizeOf, viewBuffer, viewOffset, viewSize, bufferSize, sharedSize, Uint8Array,
      TypeError, InternalError } = made;
    made.define = define;
    // Gives a class the name that `Object.prototype.toString` shows; libraries tell classes apart by it.
    made.tag = (constructor, name) => defineProperty(constructor.prototype, made.Symbol.toStringTag,
      { __proto__: null, value: name, configurable: true });
    // The text of what the plugin handed over, as a template literal has it. Template literals themselves are not for the
    // prelude: this engine makes them by calling `String.prototype.concat`.
    made.asString = value => {
      if (typeof value === "string") return value;
      if (typeof value === "symbol") throw new TypeError("a symbol cannot be converted to a string");
      return made.String(value);
    };
    made.isBuffer = value => {
      if (value === null || typeof value !== "object") return false;
      try { bufferSize(value); return true } catch { /* a shared one, or none */ }
      try { sharedSize(value); return true } catch { return false }
    };
    // The bytes that a buffer or a view of one holds, without a copy. Throws TypeError for anything else.
    made.bytesOf = value => {
      if (isView(value)) {
        return kindOf(value) === undefined ? new Uint8Array(viewBuffer(value), viewOffset(value), viewSize(value))
          : new Uint8Array(bufferOf(value), offsetOf(value), sizeOf(value));
      }
      if (made.isBuffer(value)) return new Uint8Array(value);
      throw new TypeError("an ArrayBuffer, a typed array or a DataView is expected");
    };
    // The items of what the plugin handed over to be gone through.
    made.itemsOf = given => {
      if (made.isArray(given)) return given;
      const items = [];
      for (const item of given) items[items.length] = item;
      return items;
    };
    // An exception of a listener has nobody who could catch it: it is thrown by a timer, which makes the call fail. Out
    // of memory, which the engine throws as null or as an InternalError, goes on to whoever dispatched.
    made.report = error => {
      if (error === null || error instanceof InternalError) throw error;
      internals.setTimeout(() => { throw error }, 0);
    };
    // Predicates of the classes that structuredClone refuses; each part adds those of its own.
    made.platformObjects = [];
    return made;
  };
  defineProperty(internals, "base", { __proto__: null, get: () => base ??= build() });

  // `internals.parts.url()` is what the part "url" made. The file of a part puts its function into `internals.makers`; it
  // has run already (in the zygote) or is fetched now.
  internals.makers = { __proto__: null };
  internals.parts = { __proto__: null };
  const part = (key, names) => {
    let made;
    const get = internals.parts[key] = () => {
      if (made !== undefined) return made;
      if (internals.makers[key] === undefined) {
        if (!host.part(key + ".js")) throw null; // as the engine does where there is no memory for an error
        const file = everything.__part;
        delete everything.__part;
        file(host, internals);
      }
      return made = internals.makers[key]();
    };
    for (let i = 0; i < names.length; i++) {
      const name = names[i];
      defineProperty(everything, name, {
        __proto__: null,
        get() {
          const value = get()[name];
          define(everything, name, value);
          return value;
        },
        set(value) { define(everything, name, value) },
        configurable: true,
        enumerable: false,
      });
    }
  };
  part("absent", []);
  part("shared", []);
  part("text", ["TextEncoder", "TextDecoder"]);
  part("url", ["URL", "URLSearchParams"]);
  part("events", ["Event", "CustomEvent", "EventTarget", "AbortSignal", "AbortController"]);
  part("structured_clone", ["structuredClone"]);
  part("crypto", ["crypto", "Crypto", "SubtleCrypto"]);
  part("fetch", ["Headers", "Request", "Response", "fetch"]);

  // What to do about an error that names a global which plugins do not have, as the end of its message; else "".
  const ReferenceErrorHere = ReferenceError;
  internals.explain = error => error instanceof ReferenceErrorHere ? internals.parts.absent().explain(error) : "";
})
