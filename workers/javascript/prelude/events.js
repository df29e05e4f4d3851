// Event, CustomEvent, EventTarget, AbortSignal and AbortController (https://dom.spec.whatwg.org, without a tree).
(function (host, internals) {
  "use strict";
  const { tag, apply, defineProperty, itemsOf, report, platformObjects, mapGet, mapSet, Map, TypeError,
    DOMException } = internals.base;
  const DELAY_MS_MAX = 2 ** 53 - 1;

  internals.makers.events = () => {
    let isEvent, typeOf, phaseOf, stopsOf, isCanceled, enter, leave;

    class Event {
      #type; #bubbles; #cancelable; #composed;
      #time = host.clock(); #target = null; #phase = 0; #isCanceled = false; #isPassive = false;
      #stops = 0; // 1: no further targets, 2: no further listeners either

      static {
        isEvent = value => value !== null && typeof value === "object" && #type in value;
        typeOf = event => event.#type;
        phaseOf = event => event.#phase;
        stopsOf = event => event.#stops;
        isCanceled = event => event.#isCanceled;
        enter = (event, target, isPassive) => {
          event.#target = target;
          event.#phase = 2;
          event.#isPassive = isPassive;
        };
        leave = event => {
          event.#phase = event.#stops = 0;
          event.#isPassive = false;
        };
        platformObjects[platformObjects.length] = isEvent;
      }

      constructor(type, options = undefined) {
        if (arguments.length === 0) throw new TypeError("an Event has a type");
        this.#type = `${type}`;
        this.#bubbles = !!options?.bubbles;
        this.#cancelable = !!options?.cancelable;
        this.#composed = !!options?.composed;
      }

      get type() { return this.#type }
      get target() { return this.#target }
      get srcElement() { return this.#target }
      get currentTarget() { return this.#phase === 0 ? null : this.#target }
      get eventPhase() { return this.#phase }
      get bubbles() { return this.#bubbles }
      get cancelable() { return this.#cancelable }
      get composed() { return this.#composed }
      get defaultPrevented() { return this.#isCanceled }
      get returnValue() { return !this.#isCanceled }
      get isTrusted() { return false }
      get timeStamp() { return this.#time }
      composedPath() { return this.#phase === 0 ? [] : [this.#target] }
      preventDefault() { if (this.#cancelable && !this.#isPassive) this.#isCanceled = true }
      stopPropagation() { if (this.#stops === 0) this.#stops = 1 }
      stopImmediatePropagation() { this.#stops = 2 }
    }
    const PHASES = { __proto__: null, NONE: 0, CAPTURING_PHASE: 1, AT_TARGET: 2, BUBBLING_PHASE: 3 };
    for (const name in PHASES) {
      const constant = { __proto__: null, value: PHASES[name], enumerable: true };
      defineProperty(Event, name, constant);
      defineProperty(Event.prototype, name, constant);
    }

    class CustomEvent extends Event {
      #detail;

      constructor(type, options = undefined) {
        super(type, options);
        this.#detail = options?.detail ?? null;
      }

      get detail() { return this.#detail }
    }

    class EventTarget {
      // type → listeners in their order; a list is replaced, never changed, since a dispatch may be going through it
      #listeners = new Map();

      static {
        platformObjects[platformObjects.length] = value => #listeners in value;
      }

      addEventListener(type, callback, options = undefined) {
        if (callback === null || callback === undefined) return;
        if (typeof callback !== "function" && typeof callback !== "object") {
          throw new TypeError("a listener is a function, or an object with handleEvent");
        }
        type = `${type}`;
        const given = options !== null && typeof options === "object" ? options : { __proto__: null, capture: options };
        const capture = !!given.capture, { signal } = given;
        const listener = { callback, capture, once: !!given.once, isPassive: !!given.passive, isRemoved: false };
        if (signal !== undefined && signal.aborted) return;
        const old = mapGet(this.#listeners, type) ?? [], list = [];
        for (let i = 0; i < old.length; i++) {
          if (old[i].callback === callback && old[i].capture === capture) return;
          list[i] = old[i];
        }
        list[list.length] = listener;
        mapSet(this.#listeners, type, list);
        if (signal !== undefined) apply(addListener, signal, ["abort", () => this.#remove(type, callback, capture)]);
      }

      removeEventListener(type, callback, options = undefined) {
        const capture = options !== null && typeof options === "object" ? options.capture : options;
        this.#remove(`${type}`, callback, !!capture);
      }

      #remove(type, callback, capture) {
        const old = mapGet(this.#listeners, type) ?? [], list = [];
        for (let i = 0; i < old.length; i++) {
          if (old[i].callback === callback && old[i].capture === capture) old[i].isRemoved = true;
          else list[list.length] = old[i];
        }
        mapSet(this.#listeners, type, list);
      }

      dispatchEvent(event) {
        if (!isEvent(event)) throw new TypeError("dispatchEvent takes an Event");
        if (phaseOf(event) !== 0) throw new DOMException("the event is being dispatched already", "InvalidStateError");
        const type = typeOf(event), list = mapGet(this.#listeners, type) ?? [];
        try {
          enter(event, this, false);
          for (let i = 0; i < list.length && stopsOf(event) < 2; i++) {
            const listener = list[i], { callback } = listener;
            if (listener.isRemoved) continue;
            if (listener.once) this.#remove(type, callback, listener.capture);
            enter(event, this, listener.isPassive);
            try {
              if (typeof callback === "function") apply(callback, this, [event]); else callback.handleEvent(event);
            } catch (error) {
              report(error);
            }
          }
        } finally {
          leave(event);
        }
        return !isCanceled(event);
      }
    }
    const addListener = EventTarget.prototype.addEventListener, dispatch = EventTarget.prototype.dispatchEvent;

    // ------------------------------------------------------------ abort
    let mayMake = false, isSignal, abort, follow, throwIfAborted;
    const make = () => {
      mayMake = true;
      try { return new AbortSignal() } finally { mayMake = false }
    };

    class AbortSignal extends EventTarget {
      #isAborted = false; #reason = undefined;
      #followers = []; // done to before the event, in their order; they need no listener, which the plugin could stop
      #handler = null; #isListening = false;

      static {
        isSignal = value => value !== null && typeof value === "object" && #reason in value;
        abort = (signal, reason) => {
          if (signal.#isAborted) return;
          signal.#isAborted = true;
          signal.#reason = reason === undefined ? new DOMException("This operation was aborted", "AbortError") : reason;
          const followers = signal.#followers;
          signal.#followers = [];
          for (let i = 0; i < followers.length; i++) followers[i](signal.#reason);
          apply(dispatch, signal, [new Event("abort")]);
        };
        throwIfAborted = signal => { if (signal.#isAborted) throw signal.#reason };
        follow = (signal, act) => { // returns how to stop following
          signal.#followers[signal.#followers.length] = act;
          return () => {
            const kept = [];
            for (let i = 0; i < signal.#followers.length; i++) {
              if (signal.#followers[i] !== act) kept[kept.length] = signal.#followers[i];
            }
            signal.#followers = kept;
          };
        };
      }

      constructor() {
        if (!mayMake) throw new TypeError("Illegal constructor: make an AbortController, or call AbortSignal.timeout(ms)");
        super();
      }

      static abort(reason = undefined) {
        const signal = make();
        abort(signal, reason);
        return signal;
      }

      // Aborts after `ms`, unless the call that made it has ended before.
      static timeout(ms) {
        const delay = +ms;
        if (!(delay >= 0 && delay <= DELAY_MS_MAX)) throw new TypeError("AbortSignal.timeout takes milliseconds");
        const signal = make();
        internals.setTimeout(() => abort(signal, new DOMException("The operation timed out", "TimeoutError")), delay);
        return signal;
      }

      static any(signals) {
        const list = itemsOf(signals), signal = make();
        for (let i = 0; i < list.length; i++) {
          if (!isSignal(list[i])) throw new TypeError("AbortSignal.any takes AbortSignals");
        }
        for (let i = 0; i < list.length; i++) {
          if (!list[i].#isAborted) continue;
          abort(signal, list[i].#reason);
          return signal;
        }
        for (let i = 0; i < list.length; i++) follow(list[i], reason => abort(signal, reason));
        return signal;
      }

      get aborted() { return this.#isAborted }
      get reason() { return this.#reason }
      throwIfAborted() { throwIfAborted(this) }

      get onabort() { return this.#handler }
      set onabort(handler) {
        this.#handler = typeof handler === "function" ? handler : null;
        if (this.#handler === null || this.#isListening) return;
        this.#isListening = true;
        apply(addListener, this, ["abort", event => { if (this.#handler !== null) apply(this.#handler, this, [event]) }]);
      }
    }

    class AbortController {
      #signal = make();

      static {
        platformObjects[platformObjects.length] = value => #signal in value;
      }

      get signal() { return this.#signal }
      abort(reason = undefined) { abort(this.#signal, reason) }
    }

    tag(Event, "Event");
    tag(CustomEvent, "CustomEvent");
    tag(EventTarget, "EventTarget");
    tag(AbortSignal, "AbortSignal");
    tag(AbortController, "AbortController");
    return { Event, CustomEvent, EventTarget, AbortSignal, AbortController, isSignal, follow, throwIfAborted,
      following: signal => AbortSignal.any(signal === null ? [] : [signal]) };
  };
})
