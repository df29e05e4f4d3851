// structuredClone (https://html.spec.whatwg.org, StructuredSerialize), without what exists in browsers only.
(function (host, internals) {
  "use strict";
  const { define, keys, isArray, isView, isBuffer, itemsOf, hasOwn, isBefore, getPrototypeOf, defineProperty,
    kindOf, bufferOf, offsetOf, lengthOf, viewBuffer, viewOffset, viewSize, bufferSize, bufferSizeMax, isResizable, isDetached,
    copyBuffer, transfer, setBytes, mapGet, mapSet, mapEach, setAdd, setEach, timeOf, sourceOf, flagsOf, booleanOf,
    numberOf, stringOf, bigintOf, platformObjects, VIEWS, ERRORS, Object, Boolean, Number, String, BigInt, Symbol, Map, Set,
    WeakMap, WeakSet, WeakRef, Date, RegExp, Promise, ArrayBuffer, SharedArrayBuffer, DataView, DOMException, Uint8Array,
    Error, TypeError } = internals.base;

  internals.makers.structured_clone = () => {
    const objectPrototype = Object.prototype;
    const PRIMITIVES = [[Boolean.prototype, booleanOf], [Number.prototype, numberOf], [String.prototype, stringOf],
      [BigInt.prototype, bigintOf]];
    const REFUSED = [[Promise.prototype, "a Promise"], [WeakMap.prototype, "a WeakMap"], [WeakSet.prototype, "a WeakSet"],
      [WeakRef.prototype, "a WeakRef"], [SharedArrayBuffer.prototype, "a SharedArrayBuffer"],
      [Symbol.prototype, "a symbol"]];
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
      if (isBuffer(value) && isBefore(ArrayBuffer.prototype, value)) {
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
      for (let i = 0; i < platformObjects.length; i++) {
        if (platformObjects[i](value)) refuse("an object of the platform, such as a URL or a Response,");
      }
      return undefined;
    };
    const keep = (value, made, seen) => { mapSet(seen, value, made); return made };

    const copyOfBuffer = buffer => {
      if (isDetached(buffer)) refuse("a buffer that was given away");
      if (!isResizable(buffer)) return copyBuffer(buffer, 0);
      const made = new ArrayBuffer(bufferSize(buffer), { __proto__: null, maxByteLength: bufferSizeMax(buffer) });
      setBytes(new Uint8Array(made), new Uint8Array(buffer));
      return made;
    };

    const copyView = (view, seen) => {
      const name = kindOf(view);
      if (name === undefined) return new DataView(copy(viewBuffer(view), seen), viewOffset(view), viewSize(view));
      return new VIEWS[name](copy(bufferOf(view), seen), offsetOf(view), lengthOf(view));
    };

    const copyError = (error, seen) => {
      const name = `${error.name}`, made = new (ERRORS[name] ?? Error)();
      mapSet(seen, error, made);
      if (hasOwn(error, "message")) define(made, "message", `${error.message}`);
      define(made, "stack", `${error.stack}`);
      if (hasOwn(error, "cause")) define(made, "cause", copy(error.cause, seen));
      return made;
    };

    // The name is that of the method's own function, as for the engine's globals.
    const { structuredClone } = {
      structuredClone(value, options = undefined) {
        if (arguments.length === 0) throw new TypeError("structuredClone takes a value");
        const seen = new Map(), moved = itemsOf(options?.transfer ?? []);
        for (let i = 0; i < moved.length; i++) {
          if (!isBuffer(moved[i]) || !isBefore(ArrayBuffer.prototype, moved[i])) {
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
  };
})
