// `mock` of `node:test`: functions that know how they were called, and timers that a test moves.
import { absent, inspect } from "apex:inspect";
const { defineProperty, getOwnPropertyDescriptor, getPrototypeOf } = Object;
const invalid = (name, value, why) => Object.assign(new TypeError(`The ${name.includes(".") ? "property" : "argument"} '${name}' ${why}. Received ${inspect(value)}`), { code: "ERR_INVALID_ARG_VALUE" });
const needFunction = (value, name) => {
  if (typeof value !== "function") throw Object.assign(new TypeError(`The "${name}" argument must be of type function. Received ${inspect(value)}`), { code: "ERR_INVALID_ARG_TYPE" });
};
const needTimes = (times) => {
  if (times !== Infinity && !(Number.isInteger(times) && times >= 1)) throw invalid("options.times", times, "must be a whole number from 1 on");
};

let push, next; // what only this file may do with a MockFunctionContext
class MockFunctionContext {
  #calls = []; #once = new Map(); #run; #back; #times;
  constructor(run, back, times) { this.#run = run; this.#back = back; this.#times = times }
  get calls() { return [...this.#calls] }
  callCount() { return this.#calls.length }
  mockImplementation(run) { needFunction(run, "implementation"); this.#run = run }
  mockImplementationOnce(run, onCall = this.#calls.length) {
    needFunction(run, "implementation");
    if (!Number.isInteger(onCall) || onCall < this.#calls.length) throw Object.assign(new RangeError(`The value of "onCall" is out of range. It must be >= ${this.#calls.length}. Received ${inspect(onCall)}`), { code: "ERR_OUT_OF_RANGE" });
    this.#once.set(onCall, run);
  }
  resetCalls() { this.#calls = [] }
  restore() { this.#run = this.#back(this.#run) }
  static {
    push = (context, call) => { context.#calls.push(call) };
    next = (context) => {
      const number = context.#calls.length, run = context.#once.get(number) ?? context.#run;
      context.#once.delete(number);
      if (number + 1 === context.#times) context.restore();
      return run;
    };
  }
}
// A function that is called as `original` is: its name and its length, `new`, and `mock` beside its own properties.
function mocked(original, context) {
  return new Proxy(original, {
    apply(_, self, args) { return called(context, args, self, undefined) },
    construct(_, args, target) { return called(context, args, undefined, target === this ? original : target) },
    get(target, name, receiver) { return name === "mock" ? context : Reflect.get(target, name, receiver) },
  });
}
function called(context, args, self, target) {
  const run = next(context);
  let result, error;
  try {
    result = target === undefined ? Reflect.apply(run, self, args) : Reflect.construct(run, args, target);
    return result;
  } catch (thrown) { error = thrown; throw thrown } finally {
    push(context, { arguments: args, error, result, stack: new Error(), target, this: target === undefined ? self : result });
  }
}

export class MockTracker {
  #contexts = []; #timers;
  get timers() { return this.#timers ??= new MockTimers() }
  fn(original, implementation, options) {
    if (typeof original === "object" && original !== null) [original, options] = [undefined, original];
    else if (typeof implementation === "object" && implementation !== null) [implementation, options] = [undefined, implementation];
    original ??= function () {};
    implementation ??= original;
    needFunction(original, "original");
    needFunction(implementation, "implementation");
    const { times = Infinity } = options ?? {};
    needTimes(times);
    return this.#keep(new MockFunctionContext(implementation, () => original, times), original);
  }
  method(object, name, implementation, options) {
    if (typeof implementation === "object" && implementation !== null) [implementation, options] = [undefined, implementation];
    const { getter = false, setter = false, times = Infinity } = options ?? {};
    needTimes(times);
    if (getter && setter) throw invalid("options.setter", setter, "cannot be used with 'options.getter'");
    let descriptor;
    for (let at = object; at !== null && at !== undefined && !descriptor; at = getPrototypeOf(at)) descriptor = getOwnPropertyDescriptor(at, name);
    const part = getter ? "get" : setter ? "set" : "value", original = descriptor?.[part];
    if (typeof original !== "function") throw invalid("methodName", original, "must be a method");
    if (implementation !== undefined) needFunction(implementation, "implementation");
    const back = (run) => { defineProperty(object, name, descriptor); return run };
    const mock = this.#keep(new MockFunctionContext(implementation ?? original, back, times), original);
    defineProperty(object, name, { ...descriptor, [part]: mock });
    return mock;
  }
  getter(object, name, implementation, options) {
    if (typeof implementation === "object" && implementation !== null) [implementation, options] = [undefined, implementation];
    return this.method(object, name, implementation, { ...options, getter: true });
  }
  setter(object, name, implementation, options) {
    if (typeof implementation === "object" && implementation !== null) [implementation, options] = [undefined, implementation];
    return this.method(object, name, implementation, { ...options, setter: true });
  }
  reset() {
    this.restoreAll();
    this.#timers?.reset();
    this.#contexts = [];
  }
  restoreAll() { for (const context of this.#contexts) context.restore() }
  #keep(context, original) {
    this.#contexts.push(context);
    return mocked(original, context);
  }
}
MockTracker.prototype.module = absent("mock.module", "give the module what it uses as an argument");
MockTracker.prototype.property = absent("mock.property", "assign the property, and assign it back after the test");

// ------------------------------------------------------------------ timers
const APIS = ["setTimeout", "setInterval", "Date"], DELAY_MS_MAX = 2 ** 31 - 1;
const RealDate = Date;
class MockTimers {
  #kept = null; #now = 0; #timers = []; #last = 0;
  enable(options = {}) {
    if (this.#kept) throw Object.assign(new Error("Invalid state: MockTimers is already enabled!"), { code: "ERR_INVALID_STATE" });
    const { apis = APIS, now = 0 } = Array.isArray(options) ? { apis: options } : options;
    for (const api of apis) {
      if (api === "setImmediate" || api === "scheduler.wait") absent(api, "a plugin has setTimeout")();
      if (!APIS.includes(api)) throw invalid("options.apis", api, `option ${api} is not supported`);
    }
    const start = now instanceof RealDate ? now.getTime() : now;
    if (typeof start !== "number" || !(start >= 0)) throw invalid("now", now, "epoch must be a positive integer");
    this.#now = start;
    const names = apis.flatMap((api) => api === "Date" ? [api] : [api, api.replace("set", "clear")]);
    this.#kept = names.map((name) => [name, getOwnPropertyDescriptor(globalThis, name)]);
    const fakes = {
      setTimeout: (call, ms, ...args) => this.#add(call, ms, args, false), setInterval: (call, ms, ...args) => this.#add(call, ms, args, true),
      clearTimeout: (timer) => this.#remove(timer), clearInterval: (timer) => this.#remove(timer), Date: this.#date(),
    };
    for (const name of names) defineProperty(globalThis, name, { value: fakes[name], writable: true, configurable: true, enumerable: false });
  }
  tick(ms = 1) {
    this.#need(ms);
    this.#now += ms;
    for (let timer; (timer = this.#timers[0]) && timer.at <= this.#now;) {
      Reflect.apply(timer.call, undefined, timer.args);
      const was = this.#timers.indexOf(timer);
      if (was < 0) continue; // its own callback has cleared it
      this.#timers.splice(was, 1);
      if (timer.every === undefined) continue;
      timer.at += timer.every;
      this.#put(timer);
    }
  }
  runAll() {
    this.#need(0);
    const last = this.#timers.at(-1);
    if (last) this.tick(last.at - this.#now);
  }
  setTime(ms = 0) { this.#need(ms); this.#now = ms }
  reset() {
    for (const [name, descriptor] of this.#kept ?? []) defineProperty(globalThis, name, descriptor);
    this.#kept = null;
    this.#timers = [];
    this.#now = 0;
  }
  #need(ms) {
    if (!this.#kept) throw Object.assign(new Error("Invalid state: You should enable MockTimers first by calling the .enable function"), { code: "ERR_INVALID_STATE" });
    if (typeof ms !== "number" || !(ms >= 0)) throw invalid("time", ms, "must be a positive integer");
  }
  #add(call, ms, args, every) {
    needFunction(call, "callback");
    const wait = ms > DELAY_MS_MAX || !(ms >= 1) ? 1 : Math.trunc(ms);
    const timer = { id: ++this.#last, at: this.#now + wait, every: every ? wait : undefined, call, args };
    for (const name of ["ref", "unref"]) defineProperty(timer, name, { value: () => timer });
    defineProperty(timer, "hasRef", { value: () => true });
    defineProperty(timer, Symbol.toPrimitive, { value: () => timer.id });
    this.#put(timer);
    return timer;
  }
  #put(timer) {
    let place = this.#timers.findIndex((one) => one.at > timer.at || (one.at === timer.at && one.id > timer.id));
    if (place < 0) place = this.#timers.length;
    this.#timers.splice(place, 0, timer);
  }
  #remove(timer) {
    const place = this.#timers.findIndex((one) => one === timer || one.id === timer);
    if (place >= 0) this.#timers.splice(place, 1);
  }
  #date() {
    const now = () => this.#now;
    const MockDate = function Date(...given) {
      if (!new.target) return new RealDate(now()).toString();
      return Reflect.construct(RealDate, given.length ? given : [now()], new.target === MockDate ? RealDate : new.target);
    };
    for (const name of ["parse", "UTC"]) defineProperty(MockDate, name, { value: RealDate[name], writable: true, configurable: true });
    defineProperty(MockDate, "now", { value: now, writable: true, configurable: true });
    defineProperty(MockDate, "prototype", { value: RealDate.prototype });
    return MockDate;
  }
}
