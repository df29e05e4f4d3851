"""TextEncoder, TextDecoder, structuredClone and crypto, in the engine that workers have."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest

from tests.support.realms import Thrown, run

TEXTS = ["", "plain", "é", "中文", "😀", "a\u0000b", "\ufeffmark", "\U0010ffff\uffff", "x" * 70_000,
         "a😀" * 40_000, "é" * 65_535 + "😀"]


def test_text_becomes_the_bytes_of_utf8_and_text_again() -> None:
    encoded, decoded = run("""
        const encoder = new TextEncoder(), decoder = new TextDecoder("utf-8", { ignoreBOM: true });
        const bytes = given.map(text => encoder.encode(text));
        return [bytes, bytes.map(one => decoder.decode(one))]""", TEXTS)
    assert encoded == [text.encode() for text in TEXTS]
    assert decoded == TEXTS


def test_halves_of_surrogate_pairs_are_encoded_as_replacement_characters() -> None:
    assert run(r"return new TextEncoder().encode('a\ud800b\udc00')") == "a\ufffdb\ufffd".encode()


MALFORMED = [b"\xff", b"a\x80b", b"\xc0\x80", b"\xe2\x82", b"\xe2\x82A", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80",
             b"\xf0\x80\x80\x80", b"\xc3\xc3\xa9", b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80", b"ok \xf0\x9f\x98\x80 \xf0\x9f no",
             b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", b"x" * 65_535 + b"\xf0\x9f\x98\x80\xff"]


def test_each_malformed_piece_is_one_replacement_character_as_in_every_browser() -> None:
    texts = run("return given.map(hex => new TextDecoder().decode(Uint8Array.fromHex(hex)))", [one.hex() for one in MALFORMED])
    assert texts == [one.decode("utf-8", "replace") for one in MALFORMED]  # both follow Unicode's "maximal subparts"


def test_a_fatal_decoder_refuses_what_is_malformed_and_goes_on_afterwards() -> None:
    assert run("""
        const decoder = new TextDecoder("utf8", { fatal: true }), said = [];
        for (const hex of given) {
          try { said.push(decoder.decode(Uint8Array.fromHex(hex))) } catch (error) { said.push(error.name) }
        }
        return said""", [*(one.hex() for one in MALFORMED), "6f6b"]) == ["TypeError"] * len(MALFORMED) + ["ok"]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_stream_is_decoded_as_its_pieces_together(size: int) -> None:
    data = "\ufeffa é 中 😀".encode() + b"\xf0\x9f" + "z\ufeff€".encode() + b"\xe2\x82"
    assert run("""
        const decoder = new TextDecoder(), bytes = Uint8Array.fromHex(given.hex);
        let text = "";
        for (let i = 0; i < bytes.length; i += given.size) {
          text += decoder.decode(bytes.subarray(i, i + given.size), { stream: true });
        }
        return text + decoder.decode()""", {"hex": data.hex(), "size": size}) == data[3:].decode("utf-8", "replace")


def test_a_byte_order_mark_is_left_out_once_and_kept_if_asked() -> None:
    assert run(r"""
        const bytes = new Uint8Array([0xef, 0xbb, 0xbf, 0xef, 0xbb, 0xbf, 65]);
        return [new TextDecoder().decode(bytes), new TextDecoder("UTF-8", { ignoreBOM: true }).decode(bytes.buffer),
                new TextDecoder().decode(new DataView(bytes.buffer, 3))]""") == ["\ufeffA", "\ufeff\ufeffA", "A"]


def test_another_encoding_is_refused_with_what_to_do() -> None:
    with pytest.raises(Thrown, match='knows "utf-8" only') as caught:
        run("return new TextDecoder('latin1')")
    assert caught.value.name == "RangeError"


def test_encode_into_stops_where_a_character_has_no_room() -> None:
    assert run("""
        const bytes = new Uint8Array(given.size), told = new TextEncoder().encodeInto(given.text, bytes);
        return [told.read, told.written, bytes]""", {"text": "aé😀z", "size": 6}) == [2, 3, b"a\xc3\xa9\0\0\0"]


CLONES: list[tuple[str, Any]] = [
    ("const one = { a: 1 }; const made = structuredClone([one, one]); return made[0] === made[1] && made[0] !== one", True),
    ("const o = { n: 1 }; o.self = o; const made = structuredClone(o); return made.self === made && made !== o", True),
    ("return structuredClone(new Map([['k', new Set([1, 2])]])).get('k').has(2)", True),
    ("return structuredClone(new Date(5)).getTime()", 5),
    ("const r = structuredClone(/a+/gi); return [r.source, r.flags, r instanceof RegExp]", ["a+", "gi", True]),
    ("const v = new Uint16Array([1, 2, 3]).subarray(1), c = structuredClone(v); v[0] = 9; return [...c]", [2, 3]),
    ("const b = new ArrayBuffer(4), c = structuredClone({ a: new Uint8Array(b), b: new DataView(b, 1) });"
     "return [c.a.buffer === c.b.buffer, c.b.byteOffset]", [True, 1]),
    ("const e = structuredClone(new RangeError('far', { cause: { n: 1 } }));"
     "return [e instanceof RangeError, e.message, e.cause.n, e.stack.includes('t/index.js')]", [True, "far", 1, True]),
    ("return structuredClone(new (class Point { x = 1; get y() { return 2 } }))", {"x": 1}),
    ("return Object.getPrototypeOf(structuredClone(Object.create({ inherited: 1 }))) === Object.prototype", True),
    ("const list = [1, , 3]; list.extra = 'e'; const c = structuredClone(list); return [c.length, 1 in c, c.extra]",
     [3, False, "e"]),
    ("const c = structuredClone({ a: Object('s'), b: Object(1n), c: Object(false), d: 10n, e: undefined, f: -0 });"
     "return [typeof c.a, c.a.valueOf(), c.b.valueOf() === 1n, c.c.valueOf(), c.d === 10n, 'e' in c, Object.is(c.f, -0)]",
     ["object", "s", True, False, True, True, True]),
    ("const c = structuredClone(JSON.parse('{\"__proto__\": {\"x\": 1}}')); return [Object.keys(c), c.x ?? null]",
     [["__proto__"], None]),
    ("const e = structuredClone(new DOMException('m', 'AbortError')); return [e instanceof DOMException, e.name, e.code]",
     [True, "AbortError", 20]),
    ("const b = new Uint8Array([1, 2]), c = structuredClone({ b }, { transfer: [b.buffer] });"
     "return [[...c.b], b.buffer.detached, b.length]", [[1, 2], True, 0]),
]


@pytest.mark.parametrize(("body", "expected"), CLONES)
def test_a_structured_clone_is_what_the_standard_says(body: str, expected: Any) -> None:
    assert run(body) == expected


@pytest.mark.parametrize("value", [
    "() => 0", "{ f() {} }", "Symbol.iterator", "[Symbol()]", "Promise.resolve()", "new WeakMap()", "new WeakSet()", "new URL('a:b')",
    "new Headers()", "new Response('x')", "new EventTarget()", "new Event('e')", "new AbortController()", "new URLSearchParams()",
    "new SharedArrayBuffer(1)", "new WeakRef({})"])
def test_what_cannot_be_cloned_is_a_data_clone_error(value: str) -> None:
    assert run(f"try {{ structuredClone({value}); return 'cloned' }} catch (error) {{"
               "return [error instanceof DOMException, error.name, error.code] }") == [True, "DataCloneError", 25]


def test_a_buffer_that_cannot_be_given_away_is_refused_before_anything_is() -> None:
    assert run("""
        const gone = new ArrayBuffer(1), there = new ArrayBuffer(1);
        gone.transfer();
        const tried = [[there, gone], [there, there], [there, {}]].map(transfer => {
          try { structuredClone(1, { transfer }); return "cloned" } catch (error) { return error.name }
        });
        return [tried, there.detached]""") == [["DataCloneError"] * 3, False]


def test_uuids_are_of_version_4_and_differ() -> None:
    made = run("return Array.from({ length: 50 }, () => crypto.randomUUID())")
    assert len(set(made)) == 50
    assert {(uuid.UUID(one).version, uuid.UUID(one).variant) for one in made} == {(4, uuid.RFC_4122)}


def test_random_values_fill_the_given_view_and_nothing_beside_it() -> None:
    before, filled, after, same = run("""
        const all = new Uint8Array(96), view = new Uint32Array(all.buffer, 32, 8);
        const same = crypto.getRandomValues(view) === view;
        return [all.slice(0, 32), all.slice(32, 64), all.slice(64), same]""")
    assert before == after == bytes(32)
    assert len(set(filled)) > 8
    assert same is True


@pytest.mark.parametrize(("argument", "name"), [
    ("new Float64Array(1)", "TypeMismatchError"), ("new DataView(new ArrayBuffer(1))", "TypeMismatchError"),
    ("[1, 2]", "TypeMismatchError"), ("new Uint8Array(65537)", "QuotaExceededError")])
def test_random_values_for_anything_else_are_refused(argument: str, name: str) -> None:
    assert run(f"try {{ crypto.getRandomValues({argument}) }} catch (error) {{ return error.name }}") == name


@pytest.mark.parametrize(("algorithm", "name"), [
    ('"SHA-1"', "sha1"), ('"sha-256"', "sha256"), ('{ name: "SHA-384" }', "sha384"), ('"SHA-512"', "sha512")])
def test_digests_are_those_of_the_standard_library(algorithm: str, name: str) -> None:
    digest, kind = run(f"""
        const bytes = new TextEncoder().encode("x".repeat(100000) + "é");
        const digest = await crypto.subtle.digest({algorithm}, bytes.subarray(1));
        return [digest, digest instanceof ArrayBuffer]""")
    assert digest == hashlib.new(name, b"x" * 99_999 + "é".encode()).digest()
    assert kind is True


def test_other_algorithms_and_operations_reject_and_say_what_to_do() -> None:
    assert run("""
        const said = [];
        for (const attempt of [() => crypto.subtle.digest("MD5", new Uint8Array(1)), () => crypto.subtle.encrypt({}, 1, 2),
                               () => crypto.subtle.digest("SHA-1", "text")]) {
          try { await attempt() } catch (error) { said.push([error.name, /SHA-256|bundle a library|ArrayBuffer/.test(error.message)]) }
        }
        return said""") == [["NotSupportedError", True], ["NotSupportedError", True], ["TypeError", True]]
