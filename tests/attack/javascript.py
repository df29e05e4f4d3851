"""The rows of the two catalogues that a plugin in JavaScript can try: the same attack in that language's own words.

``ATTACKS`` must not come through and ``CONTAINED`` must harm nobody, as in Python. What is left has no form: the
language has no system calls, no access to the link, and none of Python's objects. ``WITHOUT`` says which it is.
"""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """``code`` is a function of the call's context; ``codes`` are the verdicts, where they are other than Python's."""

    code: str
    codes: tuple[str, ...] = ()


ATTACKS: dict[str, str] = {
    "read a file": "async (w) => String((await import(w.secret_path)).default)",
    "read through a symlink": "async (w) => String((await import(w.dir + '/link')).default)",
    "read by .. out of the root": "(w) => import('./' + '../'.repeat(40) + w.secret_path).then(String)",
    "stat a path": "async (w) => (await fetch('file://' + w.secret_path)).ok",
    "list a folder": "async (w) => { await import(w.dir); return true }",
    "load a library": "async (w) => { await import(w.library); return true }",
    "find out the working folder": "() => String(import.meta.url ?? process.cwd()).startsWith('/')",
    "TCP connect": "(w) => fetch('http://127.0.0.1:' + w.tcp + '/' + w.token)",
    "a socket with a path (docker.sock)": "(w) => fetch('http+unix://' + encodeURIComponent(w.unix) + '/' + w.token)",
    "the daemon's own host socket": "async (w) => { await fetch('unix://' + w.host_sock); return true }",
    "the daemon's admin socket": "async (w) => { await fetch('unix://' + w.admin_sock); return true }",
    "resolve a name": "async () => { await fetch('http://localhost/'); return true }",
    "start a thread": "() => { new Worker('data:text/javascript,0'); return true }",
    "exec": "async () => { const { spawn } = await import('node:child_process'); spawn('/bin/true'); return true }",
    "subprocess": "() => { require('child_process').execSync('true'); return true }",
    "executable memory": "() => WebAssembly.validate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])) ? 42 : 0",
    "shared memory, unlimited": "() => { new Uint8Array(new SharedArrayBuffer(2 ** 28)).fill(1); return true }",
    "read a stranger's /proc mem": "async (w) => String((await import(`/proc/${w.victim}/mem`)).default)",
    "read a stranger's environment": "async (w) => String((await import(`/proc/${w.victim}/environ`)).default)",
    "read its own maps": "async () => { await import('/proc/self/maps'); return true }",
    "memory without end": "() => new Uint8Array(150_000_000).fill(1).length === 150_000_000",
    "memory in small pieces": "() => { const kept = []; while (kept.length < 1500) kept.push(new Uint8Array(100_000));"
                              " return true }",
}

CONTAINED: dict[str, Form] = {
    "the same reply twice": Form("() => ({ then(done) { done('ran'); done('twice') } })"),
    "API calls for an answered call without end": Form(
        "({ api }) => { const again = () => api.query('SELECT 1').catch(again); again(); return 'ran' }", ("ok",)),
    "a line while nothing runs": Form(
        "() => { setTimeout(() => console.log('said-out-of-turn'), 30);"
        " Promise.resolve().then(() => setTimeout(() => console.log('said-out-of-turn'), 0)); return 'ran' }"),
    "API calls without end": Form(
        "({ api }) => { for (;;) api.emit('x', null).catch(() => {}) }",
        ("TIMEOUT", "MEMORY_LIMIT", "WORKER_VIOLATION")),
    "a result that is too large": Form("() => 'x'.repeat(1_100_000)"),
    "a result of a million lists": Form(
        "() => Array.from({ length: 1e6 }, () => [])", ("INVALID_OUTPUT", "MEMORY_LIMIT")),
    "a result of lists in lists": Form(
        "() => { const nest = (n) => n ? [nest(n - 1)] : null; return Array.from({ length: 20_000 }, () => nest(45)) }",
        ("INVALID_OUTPUT", "MEMORY_LIMIT", "TIMEOUT")),
    "effects of a million lists": Form(
        "async ({ api }) => { for (;;) await api.emit('x', Array.from({ length: 2e5 }, () => [])).catch(() => {}) }",
        ("TIMEOUT", "MEMORY_LIMIT", "WORKER_VIOLATION")),
    "spin": Form("() => { for (;;); }"),
    "spin in C": Form("() => /(a+)+$/.test('a'.repeat(40) + 'b')"),
    "swallow every exception": Form("() => { for (;;) try { throw 1 } catch { continue } finally { continue } }"),
    "the stack overrun": Form("() => { const deeper = (n) => [deeper(n + 1)]; return deeper(0) }"),
    "a flood of output": Form("() => { for (let n = 0; n < 50_000; n++) console.log('flood', n); return 'ran' }"),
    "one endless line": Form("() => { console.log('y'.repeat(10_000_000)); return 'ran' }"),
    "control characters in the log": Form(r"() => { console.log('\x1b[2J\x1b]0;owned\x07\r\x9b'); return 'ran' }"),
    "a forged log line": Form(
        r"() => { console.log('x\r\n2026-01-01 00:00:00,000 ERROR forged-by-plugin'); return 'ran' }"),
    "SystemExit": Form("() => { throw undefined }"),
    "KeyboardInterrupt": Form("() => { throw { name: 'InternalError', message: 'out of memory' } }"),
    "GeneratorExit": Form("() => Promise.reject(null)", ("PLUGIN_ERROR", "MEMORY_LIMIT")),
    "an exception whose text kills": Form(
        "() => { throw Object.defineProperty(new Error(), 'message', { get() { throw 1 } }) }"),
    "an exception that lies about its class": Form(
        "() => { throw new Proxy(new Error('x'), { getPrototypeOf() { throw 1 }, get() { throw 2 } }) }"),
    "a name of a megabyte": Form("() => { throw Object.assign(new Error(), { name: 'E'.repeat(1_000_000) }) }"),
    "a cause without end": Form(
        "() => { const a = new Error('a'), b = new Error('b'); a.cause = b; b.cause = a; throw a }"),
    "a value that lies about its class": Form(
        "() => new Proxy({}, { getPrototypeOf: () => Map.prototype, ownKeys() { throw new Error('no') } })"),
    "a value with __reduce__": Form("() => ({ toJSON: () => 2n ** 200n })"),
    "a value that holds itself": Form("() => { const loop = []; loop.push(loop); return loop }"),
    "an integer beyond all": Form("() => 2n ** 200n"),
    "stdout replaced": Form(
        "() => { globalThis.console = { log() { throw 1 } }; console.__proto__ = null; return 'ran' }"),
    "imports poisoned": Form(
        "() => { JSON.stringify = JSON.parse = Promise.prototype.then = Array.prototype.push = () => { throw 1 };"
        " return 'ran' }"),
    "something for the exit": Form(
        "() => { new FinalizationRegistry(() => console.log('left-behind-at-exit')).register({}, 1); return 'ran' }"),
    "a search for the daemon's secrets": Form(
        "(context) => { const needle = 'APEX-DAEMON-' + 'SECRET', seen = new Set(); let found = false;\n"
        "  const walk = (value, depth) => {\n"
        "    if (typeof value === 'string' && value !== needle && value.includes(needle)) found = true;\n"
        "    if (value === null || !/object|function/.test(typeof value) || seen.has(value) || depth > 8) return;\n"
        "    seen.add(value);\n"
        "    for (const key of Reflect.ownKeys(value)) try { walk(value[key], depth + 1) } catch {}\n"
        "    walk(Object.getPrototypeOf(value), depth + 1) };\n"
        "  walk(globalThis, 0); walk(context, 0); walk(import.meta, 0); walk(new Error().stack, 0);\n"
        "  return found ? 'leak' : 'ran' }"),
}

CALLS = "needs a system call of its own choice, which JavaScript has no word for"
LINK = "needs the link, which JavaScript cannot reach: what a hook says goes through the worker"
PYTHON = "is about Python's own objects"
WITHOUT: dict[str, str] = {
    "a second greeting": LINK, "raw bytes on the link": LINK, "a frame said to be huge": LINK,
    "an endless multi-part message": LINK, "a message of no kind": LINK, "deep-nested MessagePack": LINK,
    "a reply to an earlier call": LINK, "a reply to a later call": LINK, "a call that ran said to be skipped": LINK,
    "ready once more": LINK, "another jail report": LINK, "a pong that nobody asked for": LINK,
    "a report of its tests": LINK, "log frames without end": LINK, "a failure to load reported without end": LINK,
    "the link closed": LINK, "a million marks": LINK, "ignore every signal": CALLS, "_exit in the middle": CALLS,
    "the recursion limit lowered": PYTHON,
}
"""Rows of ``contained`` without a form; each row of ``catalogue`` that is not above is a matter of CALLS."""
