"""What globals there are and are not,
    and that a plugin which changes the language's own objects breaks none of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.realms import Thrown, run

NAMES = ["AbortController", "AbortSignal", "CustomEvent", "Crypto", "Event", "EventTarget", "Headers", "Request",
    "Response",
         "SubtleCrypto", "TextDecoder", "TextEncoder", "URL", "URLSearchParams", "crypto", "fetch", "structuredClone"]
ENGINES = ["DOMException", "atob", "btoa", "performance", "queueMicrotask"]


def test_globals_are_as_the_languages_own_and_can_be_replaced() -> None:
    assert run("""
        const missing = given.filter(name => !(name in globalThis)),
            listed = given.filter(name => Object.keys(globalThis).includes(name));
        const touched = given.map(name => typeof globalThis[name]);
        const odd = given.filter(name => {
          const { value, writable, configurable, enumerable } = Object.getOwnPropertyDescriptor(globalThis, name);
          return value === undefined || !writable || !configurable || enumerable;
        });
        globalThis.fetch = 1;
        delete globalThis.URL;
        return [missing, listed, odd, fetch, typeof URL, [...new Set(touched)].sort(),
            new Headers()[Symbol.toStringTag], URL_.name]""",
               NAMES, before="const URL_ = URL;") == [[], [], [], 1, "undefined", ["function", "object"], "Headers",
                   "URL"]


def test_a_global_that_is_replaced_before_it_is_used_stays_replaced() -> None:
    assert run("return [typeof URL, fetch()]",
        before="globalThis.URL = undefined; globalThis.fetch = () => 'mine';") == [
        "undefined", "mine"]


def test_the_engines_own_globals_are_there() -> None:
    assert run("""
        const order = [];
        queueMicrotask(() => order.push("micro"));
        await null;
        return [given.every(name => name in globalThis), order, atob(btoa("\\xff\\0a")) === "\\xff\\0a",
            performance.now() >= 0,
                new DOMException("m", "AbortError").code]""", ENGINES) == [True, ["micro"], True, True, 20]


ABSENT = {
    "process.env.NODE_ENV": ("process", "--define:process.env.NODE_ENV"), "require('fs')": ("require", "--format=esm"),
    "module.exports": ("module", "--format=esm"), "Buffer.from('')": ("Buffer", "Uint8Array"),
        "new Intl.NumberFormat()": ("Intl", "date-fns"),
    "WebAssembly.compile": ("WebAssembly", "machine code"), "new XMLHttpRequest()": ("XMLHttpRequest", "network:fetch"),
    "new WebSocket('')": ("WebSocket", "network:fetch"), "window.x": ("window", "renderWidget"),
    "localStorage.x": ("localStorage", "plugin.api.insert"), "setImmediate(() => 0)": ("setImmediate", "setTimeout"),
    "new ReadableStream()": ("ReadableStream", "arrayBuffer()"), "new Worker('')": ("Worker", "one thread"),
    "new FormData()": ("FormData", "URLSearchParams"), "global.x": ("global", "globalThis"),
}


@pytest.mark.parametrize("code", ABSENT)
def test_what_is_absent_fails_with_what_to_do_and_is_undefined_for_those_who_ask(code: str) -> None:
    name, hint = ABSENT[code]
    with pytest.raises(Thrown, match=f"^{name} is not defined in plugins: ") as caught:
        run(code)
    assert caught.value.name == "ReferenceError"
    assert hint in str(caught.value) and hint in caught.value.trace and "t/index.js:" in caught.value.trace
    assert run(f"return [typeof {name}, '{name}' in globalThis, globalThis.{name}?.x ?? null]") == ["undefined", False,
        None]


def test_a_shim_takes_the_place_of_what_is_absent() -> None:
    assert run("return process.env.NODE_ENV",
        before="globalThis.process = { env: { NODE_ENV: 'production' } };") == "production"


def test_a_name_of_the_authors_own_that_is_not_defined_gets_no_hint() -> None:
    with pytest.raises(Thrown, match="^hasOwn is not defined$"):
        run("hasOwn.x")
    with pytest.raises(Thrown, match="^constructors is not defined$"):
        run("constructors.x")


USES = r"""
const cycle = { n: [1, { d: new Date(7) }], m: new Map([["k", new Set([1])]]), b: new Uint8Array([1, 2]),
    e: new RangeError("r") };
const pairs = [["b", "2"], ["a", "1 x"]];
const malformed = new Uint8Array([0xff, 65, 0xf0, 0x9f]), two = new Uint8Array([1, 2]), Bytes = Uint8Array;
async function use() {
  const url = new URL("../ü?a=1&b=%zz#f", "HTTPS://User:p w@MÜNCHEN.example:443/x/y/z"), params = url.searchParams;
  params.append("c", "d e&é");
  params.delete("b");
  const list = new URLSearchParams(pairs);
  list.sort();
  let out = url.href + url.origin + params.get("a") + list.toString() + list.getAll("a")[0] + new URL("http://[::1]:0/").host;
  try { new URL("nothing") } catch (error) { out += error.message }
  const bytes = new TextEncoder().encode("é😀" + "x"), decoder = new TextDecoder();
  out += decoder.decode(bytes) + decoder.decode(malformed) + bytes[0];
  const copy = structuredClone(cycle);
  out += copy.n[1] !== cycle.n[1];
  try { structuredClone(() => 0) } catch (error) { out += error.name }
  const target = new EventTarget(), controller = new AbortController();
  target.addEventListener("a", event => { out += event.type }, { signal: AbortSignal.any([controller.signal]) });
  target.dispatchEvent(new Event("a"));
  controller.abort();
  target.dispatchEvent(new Event("a"));
  const random = crypto.getRandomValues(new Bytes(4));
  out += crypto.randomUUID()[14] + (random[4] === undefined);
  const headers = new Headers(pairs);
  headers.append("Set-Cookie", "x");
  out += headers.get("A");
  const response = await fetch("http://h/p?q", { method: "post", headers, body: new URLSearchParams(pairs) });
  const sent = await fetch(new Request("http://h/second", { method: "PUT", body: two }));
  out += response.status + response.headers.get("x-name") + (await response.text()) + (await sent.bytes())[0];
  const digest = await crypto.subtle.digest("SHA-256", two);
  out += new Response(digest).status;
  return out;
}
"""
SPOIL = r"""
function spoil() {
  const { defineProperty, getPrototypeOf } = Object, { ownKeys } = Reflect, everything = globalThis, Failure = Error;
  const thrower = name => function () { throw new Failure("the plugin's own " + name) };
  const lists = getPrototypeOf([][Symbol.iterator]()), maps = getPrototypeOf(new Map()[Symbol.iterator]());
  const targets = [Object, Array, String, Reflect, JSON, Uint8Array, ArrayBuffer, Number, Symbol, Math, lists, maps];
  const classes = [String, Array, RegExp, Map, Set, WeakMap, Uint8Array, getPrototypeOf(Uint8Array), ArrayBuffer,
    DataView, Date, Number, Boolean, BigInt, Function, Object, Symbol, Error];
  for (const one of classes) targets.push(one.prototype);
  const work = [];
  for (const target of targets) for (const key of ownKeys(target)) work.push([target, key, String(key)]);
  const globals = ["Map", "Set", "Uint8Array", "TypeError", "RangeError", "Error", "RegExp", "Promise", "Date",
    "DOMException", "ArrayBuffer", "encodeURIComponent", "decodeURIComponent", "escape", "unescape", "atob", "btoa",
    "parseInt", "setTimeout", "String", "Object", "Array", "JSON", "Symbol", "Reflect"];
  let done = 0;
  for (let i = 0; i < work.length; i++) {
    if (work[i][2] === "prototype" || work[i][2] === "toJSON") continue;
    try {
      defineProperty(work[i][0], work[i][1], { __proto__: null, value: thrower(work[i][2]) });
      done++;
    } catch {}
  }
  for (let i = 0; i < globals.length; i++) everything[globals[i]] = thrower(globals[i]);
  return done;
}
"""
"""Left are Promise, which every `await` of the plugin asks, and toJSON, by which a plugin says what its values are.
"""


class Played:
    """Answers every fetch, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, method: str, params: dict[str, Any]) -> Any:
        self.asked.append((method, params))
        return {"status": 200, "headers": {"X-Name": "v"}, "body": "body"}


@pytest.mark.parametrize("first", ["", "await use();"], ids=["globals first used then", "globals used before"])
def test_a_plugin_that_replaces_the_languages_functions_breaks_and_steers_no_global(first: str) -> None:
    whole, spoilt = Played(), Played()
    expected = run("return use()", before=USES, answer=whole)
    assert expected.startswith("https://User:p%20w@xn--mnchen-3ya.example/x/%C3%BC?a=1&c=d+e%26%C3%A9#f")
    body = f"{first} const done = spoil(); if (done < 300) return done; return use()"
    assert run(body, before=USES + SPOIL, answer=spoilt) == expected
    assert spoilt.asked[-2:] == whole.asked
