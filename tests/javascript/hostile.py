"""What a hostile plugin in JavaScript tries: memory, recursion, regular expressions, what changes under a sort, prototypes
of the SDK, things left for the next call, forged marks, and ways to Python. Each is a hook's body and the outcomes that
are right for it."""

from __future__ import annotations

OK, ERROR, MEMORY, TIME, CRASH, OUTPUT, DENIED = ("ok", "PLUGIN_ERROR", "MEMORY_LIMIT", "TIMEOUT", "WORKER_CRASHED",
                                                   "INVALID_OUTPUT", "PERMISSION_DENIED")
ENDS = (OK, ERROR, MEMORY)
SLOW = (OK, ERROR, MEMORY, TIME)

HOSTILE: dict[str, tuple[tuple[str, ...], str]] = {}


def _add(kind: str, outcomes: tuple[str, ...], codes: dict[str, str]) -> None:
    HOSTILE.update({f"{kind}: {name}": (outcomes, code) for name, code in codes.items()})


_add("memory", (MEMORY, TIME, ERROR), {
    "objects": "() => { const a = []; for (;;) a.push({ a: 1, b: [2] }) }",
    "one string": "() => { let s = 'x'; for (;;) s += s }",
    "ropes": "() => { const a = []; for (let i = 0; ; i++) a.push('a'.repeat(i % 999) + i) }",
    "a map": "() => { const m = new Map(); for (let i = 0; ; i++) m.set(i, { i }) }",
    "a set of symbols": "() => { const m = new Set(); for (;;) m.add(Symbol()) }",
    "buffers": "() => { const a = []; for (;;) a.push(new ArrayBuffer(1 << 20)) }",
    "a large buffer": "() => new ArrayBuffer(2 ** 40)",
    "a filled array": "() => new Array(2 ** 31).fill(0)",
    "a long join": "() => Array(2 ** 27).join('abcdefgh')",
    "padded": "() => 'x'.padEnd(2 ** 29, 'y') + 'x'.padEnd(2 ** 29, 'z')",
    "closures": "() => { let f = () => 0; for (;;) { const g = f; f = () => g } }",
    "promises": "async () => { const a = []; for (;;) a.push(new Promise(() => {})) }",
    "properties": "() => { const o = {}; for (let i = 0; ; i++) o['k' + i] = i }",
    "caught again and again": "() => { const kept = []; for (;;) try { for (;;) kept.push(new Uint8Array(65536)) } catch {} }",
    "big integers": "() => { let n = 3n; for (;;) n *= n }",
    "a generator's frames": "() => { const a = []; for (;;) { const g = (function* () { yield 1 })(); g.next(); a.push(g) } }",
})
_add("recursion", (OK, ERROR, MEMORY, TIME, CRASH, OUTPUT), {
    "calls": "() => { const f = (n) => f(n + 1) + 1; return f(0) }",
    "getters": "() => { const o = { get a() { return this.a } }; return o.a }",
    "proxies": "() => { let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); return p.x }",
    "toString": "() => { const o = { toString() { return '' + this } }; return '' + o }",
    "valueOf": "() => { const o = { valueOf() { return this + 1 } }; return o + 1 }",
    "JSON out": "() => { let a = []; for (let i = 0; i < 1e6; i++) a = [a]; return JSON.stringify(a) }",
    "JSON in": "() => JSON.parse('['.repeat(1e6))",
    "parser": "() => eval('('.repeat(1e5) + ')'.repeat(1e5))",
    "parser of arrays": "() => eval('['.repeat(2e5))",
    "parser of templates": "() => eval('`${'.repeat(5e4))",
    "regex nesting": "() => new RegExp('('.repeat(1e5) + ')'.repeat(1e5)).test('x')",
    "a result": "() => { let a = 1; for (let i = 0; i < 2e5; i++) a = { a }; return a }",
    "bound functions": "() => { let f = () => 1; for (let i = 0; i < 1e5; i++) f = f.bind(null); return f() }",
    "sort in sort": "() => { const s = () => [2, 1].sort(s).length; return s() }",
    "replace in replace": "() => { const r = () => 'a'.replace(/a/, r); return r() }",
    "iterator helpers": "() => { let it = [1].values(); for (let i = 0; i < 1e5; i++) it = it.map((x) => x); return [...it].length }",
    "prototype chain": "() => { let o = {}; for (let i = 0; i < 1e6; i++) o = Object.create(o); return o.missing === undefined }",
    "error causes": "() => { let e = new Error('0'); for (let i = 0; i < 1e5; i++) e = new Error('n', { cause: e }); throw e }",
    "circular causes": "() => { const e = new Error('x'); e.cause = e; throw e }",
    "structured clone": "() => { let a = []; for (let i = 0; i < 2e5; i++) a = [a]; return structuredClone(a) && 1 }",
    "flat": "() => { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a.flat(Infinity).length }",
    "async": "async () => { const f = async () => { await f() }; await f() }",
})
_add("time", (TIME, MEMORY, ERROR), {
    "a loop": "() => { for (;;); }",
    "a regex": "() => /^(a|a)*$/.test('a'.repeat(50) + 'b')",
    "a regex with a group behind": "() => /^(\\w+\\s?)*$/.test('word '.repeat(30) + '!')",
    "microtasks": "() => { const f = () => Promise.resolve().then(f); return f() }",
    "a thenable without end": "() => ({ then(f) { f(this) } })",
    "a getter in the result": "() => ({ get a() { for (;;); } })",
    "toJSON": "() => ({ toJSON() { for (;;); } })",
    "a timer": "() => { setInterval(() => {}, 0); return new Promise(() => {}) }",
    "atomics": "() => { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0); for (;;); }",
    "a finally": "() => { for (;;) try { throw 1 } finally { continue } }",
})
_add("engine", SLOW, {
    "sort and shrink": "() => { const a = Array.from({ length: 1000 }, (_, i) => i); a.sort((x, y) => { a.length = 0; return x - y }); return 1 }",
    "sort and grow": "() => { const a = [3, 2, 1]; a.sort(() => { for (let i = 0; i < 999; i++) a.push(i); return 1 }); return 1 }",
    "sort and detach": "() => { const u = new Uint8Array(999); u.sort(() => { u.buffer.transfer(); return 1 }); return 1 }",
    "resize while iterating": "() => { const b = new ArrayBuffer(64, { maxByteLength: 128 }); const u = new Uint8Array(b); for (const _ of u) b.resize(1); return 1 }",
    "resize while copying": "() => { const b = new ArrayBuffer(64, { maxByteLength: 128 }); const u = new Uint8Array(b); u.set({ length: 64, get 0() { b.resize(0); return 1 } }); return 1 }",
    "fill and detach": "() => { const u = new Uint8Array(64); u.fill({ valueOf() { u.buffer.transfer(); return 7 } }); return 1 }",
    "a view beyond": "() => { const d = new DataView(new ArrayBuffer(8)); d.setFloat64({ valueOf() { d.buffer.transfer(); return 0 } }, 1); return 1 }",
    "splice with species": "() => { const a = [1, 2, 3]; a.constructor = { [Symbol.species]: function () { a.length = 0; return {} } }; a.splice(0, 2); return 1 }",
    "concat of proxies": "() => [].concat(new Proxy([1], { get(t, k) { return k === 'length' ? 2 ** 32 : t[k] } })).length",
    "a map changed while it is walked": "() => { const m = new Map([[1, 1]]); let n = 0; m.forEach(() => { m.clear(); if (n++ < 999) m.set(n, n) }); return 1 }",
    "a weak map's key": "() => { const w = new WeakMap(); for (let i = 0; i < 1e4; i++) { const k = {}; w.set(k, { k, w }) } return 1 }",
    "finalizers": "() => { const f = new FinalizationRegistry(() => { throw 1 }); for (let i = 0; i < 1e3; i++) f.register({}, i); return 1 }",
    "an iterator that returns": "() => { const [a] = { [Symbol.iterator]: () => ({ next: () => ({ value: 1 }), return() { throw 2 } }) }; return a }",
    "regex lastIndex": "() => { const r = /a/gy; r.lastIndex = { valueOf() { r.compile('b'); return 0 } }; return r.exec('aaaa') === null }",
    "a revoked proxy": "() => { const { proxy, revoke } = Proxy.revocable([], {}); revoke(); return Array.isArray(proxy) }",
})
_add("values", (OK, ERROR, OUTPUT), {
    "a proxy that lies": "() => new Proxy({}, { ownKeys: () => ['a'], getOwnPropertyDescriptor: () => ({ value: 1, enumerable: true, configurable: true }) })",
    "a getter that throws": "() => ({ get a() { throw new Error('no') } })",
    "a forged mark of bytes": "() => ({ '\\0b': 'AAAA' })",
    "a forged mark of a time": "() => ({ '\\0d': 1e300 })",
    "a forged message": "() => ({ k: 'a', method: 'query', number: 1, params: {} })",
    "a forged reply": "() => '{\"k\":\"r\",\"v\":1}'",
    "toJSON of everything": "() => { Object.prototype.toJSON = function () { return 7 }; return { a: 1 } }",
    "a result without end": "() => { const a = []; a.push(a); return a }",
    "a key of NUL": "() => ({ 'a\\0b': 1 })",
    "a mark that is learnt": "() => ({ get a() { return JSON.stringify(new Date(0)) }, get b() { return new Date(0).toJSON() } })",
    "an encoding in an encoding": "(c) => ({ get a() { c.api.emit('e', { get b() { c.api.emit('f', new Map()).catch(() => {}); return new Date(0) } }); return 1 }, m: new Date(0) })",
    "another value each time": "() => { let n = 0; return { get a() { return n++ ? 5 : null }, get b() { return n++ > 2 ? new Map() : {} } } }",
    "a BigInt's own toJSON": "() => { BigInt.prototype.toJSON = () => new Map(); return [5n] }",
    "raw JSON": "() => [JSON.rawJSON('1e999'), JSON.rawJSON('123456789012345678901234567890')]",
    "no result at all": "() => Object.create(null)",
})
_add("SDK", (OK, ERROR, DENIED, OUTPUT), {
    "api replaced": "(c) => { c.api = { query: () => 1 }; plugin.api = null; return 1 }",
    "api's prototype": "(c) => { const p = Object.getPrototypeOf(c.api); for (const k of Object.getOwnPropertyNames(p)) try { p[k] = () => 'mine' } catch {} return 1 }",
    "errors replaced": "() => { plugin.errors.ApiError = null; globalThis.plugin = null; return 1 }",
    "not permitted": "async (c) => { await c.api.insert('orders', { id: 1 }) }",
    "a method by another name": "async (c) => { await c.api.call('system.config.set', {}) }",
    "thousands of calls": "async (c) => { await Promise.all(Array.from({ length: 3000 }, (_, i) => c.api.emit('e', i))) }",
    "calls of a payload that lies": "async (c) => { await c.api.emit('e', { toJSON() { throw new Error('no') } }) }",
    "then of Object.prototype": "() => { Object.defineProperty(Object.prototype, 'then', { value(f) { f(1) }, configurable: true, writable: true }); return 1 }",
    "Promise.prototype.then": "async () => { Promise.prototype.then = function () { throw 1 }; await 1; return 1 }",
    "String.prototype.concat": "() => { String.prototype.concat = () => { throw 1 }; return 1 }",
    "setters of Array.prototype": "() => { for (const k of [0, 1, 'length']) try { Object.defineProperty(Array.prototype, k, { set() { throw 1 } }) } catch {} return 1 }",
    "finalizers that throw as memory does": "(c) => { const held = {}; globalThis.f = new FinalizationRegistry(() => { throw null }); f.register(held, 1); setTimeout(() => held, 1e6); return 1 }",
    "a finalizer that makes the next one": "() => { globalThis.f = new FinalizationRegistry(() => { f.register({}, 1) }); f.register({}, 1); return 1 }",
    "microtasks that throw": "() => { for (let i = 0; i < 99; i++) queueMicrotask(() => { throw i }); return 1 }",
    "promises of another kind": "async (c) => { Object.defineProperty(Promise.prototype, 'constructor', { get() { throw new Error('kind') } }); Object.defineProperty(Promise, Symbol.species, { get() { throw new Error('kind') } }); return 1 }",
    "split and join": "async (c) => { String.prototype[Symbol.split] = () => ({ length: 1e9 }); Array.prototype.join = () => 'x'.repeat(1e6); c.api.insert('orders', { id: 1 }).catch(() => 1); throw new Error('x') }",
    "stacks that are none": "async (c) => { Error.prepareStackTrace = () => ({ toString() { throw 1 } }); await c.api.insert('orders', { id: 1 }) }",
    "instanceof": "() => { for (const kind of [Error, Map, Date, Promise, Number]) Object.defineProperty(kind, Symbol.hasInstance, { value: () => true }); throw { a: 1 } }",
    "globals deleted": "() => { for (const k of Object.getOwnPropertyNames(globalThis)) try { delete globalThis[k] } catch {} return 1 }",
    "globals frozen": "() => { Object.freeze(Object.prototype); Object.freeze(Array.prototype); Object.freeze(Function.prototype); return 1 }",
})
_add("escape", (OK, ERROR), {
    "Python's names": "() => [typeof process, typeof require, typeof __line, typeof __random, typeof __part, typeof __worker, typeof __file0, typeof Python].every((t) => t === 'undefined') ? 1 : (() => { throw new Error('found') })()",
    "std and os": "async () => { for (const name of ['std', 'os', 'qjs:std', 'qjs:os', 'bjson', 'node:fs', '/etc/passwd', '../../x.js']) { let found = false; try { await import(name); found = true } catch {} if (found) return globalThis.FOUND.name } return 1 }",
    "the function's own maker": "() => (function () {}).constructor('return this')() === globalThis ? 1 : 2",
    "native code's text": "(c) => String(c.api.query) + String(Object.getPrototypeOf(c.api).emit)",
    "the callers": "() => { try { return String((function f() { return f.caller })()) } catch (e) { return e.name } }",
    "stack frames": "() => { Error.prepareStackTrace = (e, frames) => { globalThis.frames = frames; return String(frames) }; return new Error('x').stack.includes('apex:') ? 2 : 1 }",
    "host functions by error": "(c) => { try { c.log.info({ toString() { throw new Error('deep') } }) } catch (e) { return String(e.stack) } return 1 }",
    "console with a lie": "() => { console.log(new Proxy({}, { ownKeys() { throw 1 } })); return 1 }",
    "random without end": "() => { try { crypto.getRandomValues(new Uint8Array(1 << 24)) } catch (e) { return e.name } return 1 }",
    "digest of a lie": "async () => { try { await crypto.subtle.digest({ name: { toString() { return 'md5' } } }, new Uint8Array(8)) } catch (e) { return e.name } return 1 }",
    "WebAssembly": "() => typeof WebAssembly",
    "the functions of a stack": "() => { let found = 0; Error.prepareStackTrace = (e, frames) => { for (const f of frames) if (f.getFunction()) found++; return '' }; new Error('x').stack; if (found) throw globalThis.FOUND.name; return 1 }",
})
