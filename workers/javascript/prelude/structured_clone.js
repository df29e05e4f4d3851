// structuredClone (https://html.spec.whatwg.org, StructuredSerialize), without what exists in browsers only.
(function (host, internals) {
  "use strict";
  const { lazy, uncurry, getter, getPrototypeOf, keys, isArray, isView, hasOwn, kindOf, bufferOf, offsetOf, lengthOf,
    viewBuffer, viewOffset, viewLength, defineProperty, Map, Set, Date, RegExp, TypeError, DOMException, ArrayBuffer,
    DataView, Uint8Array } = internals.base;
  const { Object, Boolean, Number, String, BigInt, Symbol, Promise, WeakMap, WeakSet, WeakRef, SharedArrayBuffer,
    Int8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float16Array, Float32Array,
    Float64Array, BigInt64Array, BigUint64Array, Error, EvalError, RangeError, ReferenceError, SyntaxError, URIError,
  } = globalThis;
  const VIEWS = { __proto__: null, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array,
    Uint32Array, Float16Array, Float32Array, Float64Array, BigInt64Array, BigUint64Array };
  const ERRORS = { __proto__: null, Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };
  const objectPrototype = Object.prototype, isBefore = uncurry(objectPrototype.isPrototypeOf);
  const mapGet = uncurry(Map.prototype.get), mapSet = uncurry(Map.prototype.set);
  const mapEach = uncurry(Map.prototype.forEach), setEach = uncurry(Set.prototype.forEach);
  const setAdd = uncurry(Set.prototype.add), timeOf = uncurry(Date.prototype.getTime);
  const sourceOf = getter(RegExp.prototype, "source"), flagsOf = getter(RegExp.prototype, "flags");
  const transfer = uncurry(ArrayBuffer.prototype.transfer), copyBuffer = uncurry(ArrayBuffer.prototype.slice);
  const maxLengthOf = getter(ArrayBuffer.prototype, "maxByteLength"), isResizable = getter(ArrayBuffer.prototype, "resizable");
  const bufferLength = getter(ArrayBuffer.prototype, "byteLength"), isDetached = getter(ArrayBuffer.prototype, "detached");
  const typedLength = getter(getPrototypeOf(Uint8Array.prototype), "length");
  const PRIMITIVES = [
    [Boolean.prototype, uncurry(Boolean.prototype.valueOf)], [Number.prototype, uncurry(Number.prototype.valueOf)],
    [String.prototype, uncurry(String.prototype.valueOf)], [BigInt.prototype, uncurry(BigInt.prototype.valueOf)],
  ];
  const REFUSED = [[Promise.prototype, "a Promise"], [WeakMap.prototype, "a WeakMap"], [WeakSet.prototype, "a WeakSet"],
    [WeakRef.prototype, "a WeakRef"], [SharedArrayBuffer.prototype, "a SharedArrayBuffer"],
    [Symbol.prototype, "a symbol"]];

  internals.clone = lazy(["structuredClone"], () => {
    const refuse = what => { throw new DOMException(`${what} cannot be cloned`, "DataCloneError") };
    const own = (object, key, value) =>
      defineProperty(object, key, { __proto__: null, value, writable: true, configurable: true, enumerable: true });

    // `seen` maps each object to its copy, so that two references to one object stay two references to one object.
    const copy = (value, seen) => {
      if (typeof value === "symbol") refuse("a symbol");
      if (typeof value === "function") refuse("a function");
      if (value === null || typeof value !== "object") return value;
      const known = mapGet(seen, value);
      if (known !== undefined) return known;
      if (isArray(value)) {
        const list = [];
        list.length = value.length;
        return withProperties(value, list, seen);
      }
      const prototype = getPrototypeOf(value);
      return prototype === objectPrototype || prototype === null ? withProperties(value, {}, seen)
        : special(value, seen) ?? withProperties(value, {}, seen);
    };

    const withProperties = (value, made, seen) => {
      mapSet(seen, value, made);
      const names = keys(value);
      for (let i = 0; i < names.length; i++) {
        const name = names[i];
        if (hasOwn(value, name)) own(made, name, copy(value[name], seen)); // a getter may have deleted it
      }
      return made;
    };

    // The copy of an object of one of the language's classes; undefined for any other.
    const special = (value, seen) => {
      if (isView(value)) return keep(value, copyView(value, seen), seen);
      if (internals.isBuffer(value) && isBefore(ArrayBuffer.prototype, value)) {
        return keep(value, copyOfBuffer(value), seen);
      }
      if (isBefore(Date.prototype, value)) return keep(value, new Date(timeOf(value)), seen);
      if (isBefore(RegExp.prototype, value)) return keep(value, new RegExp(sourceOf(value), flagsOf(value)), seen);
      if (isBefore(Map.prototype, value)) {
        const made = keep(value, new Map(), seen), pairs = [];
        mapEach(value, (item, key) => { pairs[pairs.length] = { key, item } }); // copying may run getters that change it
        for (let i = 0; i < pairs.length; i++) mapSet(made, copy(pairs[i].key, seen), copy(pairs[i].item, seen));
        return made;
      }
      if (isBefore(Set.prototype, value)) {
        const made = keep(value, new Set(), seen), items = [];
        setEach(value, item => { items[items.length] = { item } });
        for (let i = 0; i < items.length; i++) setAdd(made, copy(items[i].item, seen));
        return made;
      }
      if (isBefore(DOMException.prototype, value)) {
        return keep(value, new DOMException(`${value.message}`, `${value.name}`), seen);
      }
      if (isBefore(Error.prototype, value)) return copyError(value, seen);
      for (let i = 0; i < PRIMITIVES.length; i++) {
        if (isBefore(PRIMITIVES[i][0], value)) return keep(value, Object(PRIMITIVES[i][1](value)), seen);
      }
      for (let i = 0; i < REFUSED.length; i++) if (isBefore(REFUSED[i][0], value)) refuse(REFUSED[i][1]);
      for (let i = 0; i < internals.platformObjects.length; i++) {
        if (internals.platformObjects[i](value)) refuse("an object of the platform, such as a URL or a Response,");
      }
      return undefined;
    };
    const keep = (value, made, seen) => { mapSet(seen, value, made); return made };

    const copyOfBuffer = buffer => {
      if (isDetached(buffer)) refuse("a buffer that was given away");
      if (!isResizable(buffer)) return copyBuffer(buffer, 0);
      const made = new ArrayBuffer(bufferLength(buffer), { __proto__: null, maxByteLength: maxLengthOf(buffer) });
      internals.base.setBytes(new Uint8Array(made), new Uint8Array(buffer));
      return made;
    };

    const copyView = (view, seen) => {
      const name = kindOf(view);
      if (name === undefined) return new DataView(copy(viewBuffer(view), seen), viewOffset(view), viewLength(view));
      return new VIEWS[name](copy(bufferOf(view), seen), offsetOf(view), typedLength(view));
    };

    const copyError = (error, seen) => {
      const name = `${error.name}`, made = new (ERRORS[name] ?? Error)();
      mapSet(seen, error, made);
      const define = (key, value) => internals.base.define(made, key, value);
      if (hasOwn(error, "message")) define("message", `${error.message}`);
      define("stack", `${error.stack}`);
      if (hasOwn(error, "cause")) define("cause", copy(error.cause, seen));
      return made;
    };

    // The name is that of the method's own function, as for the engine's globals.
    const { structuredClone } = {
      structuredClone(value, options = undefined) {
        if (arguments.length === 0) throw new TypeError("structuredClone takes a value");
        const seen = new Map(), given = options?.transfer, moved = [];
        if (given !== undefined && given !== null) {
          if (isArray(given)) for (let i = 0; i < given.length; i++) moved[i] = given[i];
          else for (const one of given) moved[moved.length] = one;
        }
        for (let i = 0; i < moved.length; i++) {
          if (!internals.isBuffer(moved[i]) || !isBefore(ArrayBuffer.prototype, moved[i])) {
            refuse("what `transfer` lists must be ArrayBuffers: anything else");
          }
          if (isDetached(moved[i])) refuse("a buffer that was given away");
          for (let j = 0; j < i; j++) if (moved[j] === moved[i]) refuse("a buffer that `transfer` lists twice");
        }
        const made = copy(value, seen);
        for (let i = 0; i < moved.length; i++) transfer(moved[i]); // the copy has its bytes; here the buffer is detached
        return made;
      },
    };
    return { structuredClone };
  });
})
