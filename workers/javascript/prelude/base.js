// The language's own functions as they were before any plugin code ran, and how a global is made when it is first used.
//
// The other files call these copies: a plugin that changes `String.prototype` or `Array.prototype` changes what its own
// code does, and nothing of what the globals do. For the same reason those files spread no arrays, use `for … of` only on
// what the plugin hands over, and take arrays apart by index: all of these ask `Array.prototype[Symbol.iterator]`.
(function (host, internals) {
  "use strict";
  const { defineProperty, getOwnPropertyDescriptor, getPrototypeOf, keys } = Object;
  const uncurry = Function.prototype.bind.bind(Function.prototype.call); // uncurry(f)(self, a) is f.call(self, a)
  const text = String.prototype, list = Array.prototype, bytes = getPrototypeOf(Uint8Array.prototype);
  const getter = (object, name) => uncurry(getOwnPropertyDescriptor(object, name).get);

  // A global as the language makes its own: writable, configurable, not enumerable.
  const define = (object, name, value) =>
    defineProperty(object, name, { __proto__: null, value, writable: true, configurable: true, enumerable: false });

  // Makes `names` globals whose values `make()` returns, together in one object, when one of them is first used: a new
  // engine then costs only the reading of the file. Returns the function by which other files get at the same object.
  const lazy = (names, make) => {
    let made;
    const get = () => made ??= make();
    for (let i = 0; i < names.length; i++) {
      const name = names[i];
      defineProperty(globalThis, name, {
        __proto__: null,
        get() { const value = get()[name]; define(globalThis, name, value); return value },
        set(value) { define(globalThis, name, value) },
        configurable: true,
        enumerable: false,
      });
    }
    return get;
  };

  // Gives a class the name that `Object.prototype.toString` shows; libraries tell classes apart by it.
  const tag = (constructor, name) =>
    defineProperty(constructor.prototype, Symbol.toStringTag, { __proto__: null, value: name, configurable: true });

  internals.base = {
    define, lazy, tag, uncurry, getter, defineProperty, getPrototypeOf, keys,
    apply: Reflect.apply, isArray: Array.isArray, isView: ArrayBuffer.isView, stringify: JSON.stringify,
    parse: JSON.parse, iterator: Symbol.iterator, hasOwn: Object.hasOwn,
    charCodeAt: uncurry(text.charCodeAt), indexOf: uncurry(text.indexOf), lastIndexOf: uncurry(text.lastIndexOf),
    slice: uncurry(text.slice), toLowerCase: uncurry(text.toLowerCase), toUpperCase: uncurry(text.toUpperCase),
    toWellFormed: uncurry(text.toWellFormed), isWellFormed: uncurry(text.isWellFormed), normalize: uncurry(text.normalize),
    fromCharCode: String.fromCharCode, fromCodePoint: String.fromCodePoint, codePointAt: uncurry(text.codePointAt),
    exec: uncurry(RegExp.prototype.exec), join: uncurry(list.join), sort: uncurry(list.sort),
    then: uncurry(Promise.prototype.then), encodeURIComponent, decodeURIComponent, escape, atob, btoa,
    toBase64: uncurry(Uint8Array.prototype.toBase64), fromBase64: Uint8Array.fromBase64,
    toHex: uncurry(Uint8Array.prototype.toHex), setBytes: uncurry(bytes.set),
    bufferOf: getter(bytes, "buffer"), offsetOf: getter(bytes, "byteOffset"), lengthOf: getter(bytes, "byteLength"),
    kindOf: getter(bytes, Symbol.toStringTag), viewBuffer: getter(DataView.prototype, "buffer"),
    viewOffset: getter(DataView.prototype, "byteOffset"), viewLength: getter(DataView.prototype, "byteLength"),
    bufferLength: getter(ArrayBuffer.prototype, "byteLength"), copyBuffer: uncurry(ArrayBuffer.prototype.slice),
    Map, Set, Date, RegExp, Error, TypeError, RangeError, Promise, DOMException, Uint8Array, ArrayBuffer, DataView,
    Boolean, Number, String, BigInt, WeakMap, WeakSet,
  };

  // The bytes that a buffer or a view of one holds, without a copy. Raises TypeError for anything else.
  internals.bytesOf = value => {
    const { kindOf, bufferOf, offsetOf, lengthOf, viewBuffer, viewOffset, viewLength, Uint8Array } = internals.base;
    if (internals.base.isView(value)) {
      return kindOf(value) === undefined
        ? new Uint8Array(viewBuffer(value), viewOffset(value), viewLength(value))
        : new Uint8Array(bufferOf(value), offsetOf(value), lengthOf(value));
    }
    if (internals.isBuffer(value)) return new Uint8Array(value);
    throw new internals.base.TypeError("an ArrayBuffer, a typed array or a DataView is expected");
  };

  const sharedLength = getter(SharedArrayBuffer.prototype, "byteLength");
  internals.isBuffer = value => {
    if (value === null || typeof value !== "object") return false;
    try { internals.base.bufferLength(value); return true } catch { /* a shared one, or none */ }
    try { sharedLength(value); return true } catch { return false }
  };

  // An exception of a listener has nobody who could catch it: it is thrown by a timer, which makes the call fail. Out of
  // memory, which the engine throws as null or as an InternalError, goes on to whoever dispatched.
  const { InternalError } = globalThis;
  internals.report ??= error => {
    if (error === null || error instanceof InternalError) throw error;
    internals.setTimeout(() => { throw error }, 0);
  };

  // Predicates of the classes that structuredClone refuses; each file adds its own when its classes are made.
  internals.platformObjects = [];
})
