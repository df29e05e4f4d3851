// Which call a piece of code runs for, in a worker that has several open at once.
//
// The worker does one step of one call at a time (its beginning, a reply, a timer) and then runs every job of the engine
// before the next step, so all that a step brings about is that call's. Only a promise can lead from one call's step into
// the code of another: one call waits, and another settles. So what a call gives to `then` runs in a step of its own call:
// where another call settles the promise, it is put on the list of what is ready.
//
// `await` asks no `then` of a promise of the engine's own. It asks for the promise's `constructor`, and goes by `then`
// where that is not the engine's own: hence another constructor, with the same prototype.
(function (host, internals) {
  "use strict";
  const { uncurry, define, Promise: OwnPromise, defineProperty } = internals.base;
  const { construct, setPrototypeOf } = Reflect;

  internals.makers.shared = () => {
    const { now, post } = internals.steps;
    const prototype = OwnPromise.prototype, plainThen = prototype.then, then = uncurry(plainThen);
    const inStepOf = (owner, call) => typeof call !== "function" ? call : (value) => {
      if (now() === owner) return call(value);
      const result = new OwnPromise((resolve, reject) => post(owner, () => {
        try { resolve(call(value)) } catch (error) { reject(error) }
      }));
      define(result, "then", plainThen); // what follows this promise is the owner's already
      return result;
    };
    const ours = { then(fulfilled, rejected) {
      const owner = now();
      return owner === null ? then(this, fulfilled, rejected) : then(this, inStepOf(owner, fulfilled), inStepOf(owner, rejected));
    } }.then;
    define(prototype, "then", ours);

    const Promise = function Promise(executor) {
      if (new.target === undefined) throw new internals.base.TypeError("a Promise is made by new");
      return construct(OwnPromise, [executor], new.target);
    };
    setPrototypeOf(Promise, OwnPromise); // resolve, all, race, try, …
    defineProperty(Promise, "prototype", { __proto__: null, value: prototype, writable: false });
    define(prototype, "constructor", Promise);
    define(globalThis, "Promise", Promise);
    return uncurry(ours);
  };
})
