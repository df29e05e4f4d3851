"""fetch, Headers, Request and Response. The platform's side is played: the gateway has tests of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.realms import Refused, Thrown, run

REPLY = {"status": 200, "headers": {"content-type": "application/json", "x-name": "é中"}, "body": '{"rows": [1]}'}


class Platform:
    """Answers every call with ``reply``; ``asked`` lists the calls."""

    def __init__(self, reply: Any = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.reply = reply or REPLY

    def __call__(self, method: str, params: dict[str, Any]) -> Any:
        self.asked.append((method, params))
        if isinstance(self.reply, str):
            raise Refused(self.reply)
        return self.reply


def test_a_request_reaches_the_platform_as_the_python_sdk_sends_it() -> None:
    platform = Platform()
    assert run("""
        const response = await fetch("https://API.example.com/a b#top");
        return [response.status, response.ok, response.url, response.redirected, response.headers.get("X-Name"), await response.json(),
                response.bodyUsed, response instanceof Response]""", answer=platform) == [
                    200, True, "https://api.example.com/a%20b", False, "é中", {"rows": [1]}, True, True]
    assert platform.asked == [("fetch", {"url": "https://api.example.com/a%20b", "method": "GET", "headers": {}, "body": None})]


@pytest.mark.parametrize(("init", "method", "headers", "body"), [
    ("{ method: 'post', body: 'é', headers: { 'X-A': ' 1 ' } }", "POST", {"x-a": "1", "content-type": "text/plain;charset=UTF-8"}, "é"),
    ("{ method: 'PUT', body: new Uint8Array([1, 2, 3]).subarray(1) }", "PUT", {}, b"\2\3"),
    ("{ method: 'PATCH', body: new URLSearchParams({ a: 'b c' }) }", "PATCH",
     {"content-type": "application/x-www-form-urlencoded;charset=UTF-8"}, "a=b+c"),
    ("{ method: 'POST', body: '{}', headers: [['Content-Type', 'application/json'], ['accept', 'a'], ['Accept', 'b']] }", "POST",
     {"content-type": "application/json", "accept": "a, b"}, "{}"),
    ("{ method: 'DELETE', headers: new Headers({ a: 'b' }), redirect: 'follow', credentials: 'omit', cache: 'no-store' }", "DELETE",
     {"a": "b"}, None)])
def test_bodies_and_headers_are_sent(init: str, method: str, headers: dict[str, str], body: Any) -> None:
    platform = Platform()
    run(f"await fetch('http://h/', {init})", answer=platform)
    assert platform.asked == [("fetch", {"url": "http://h/", "method": method, "headers": headers, "body": body})]


def test_a_request_object_is_sent_once_and_its_clone_again() -> None:
    platform = Platform()
    assert run("""
        const request = new Request("http://h/a?b", { method: "post", body: "text", headers: { a: "b" } }), clone = request.clone();
        await fetch(request);
        const said = [request.bodyUsed, clone.bodyUsed, request.url, request.method, request.signal.aborted];
        try { await fetch(request) } catch (error) { said.push(error.name) }
        await fetch(new Request(clone, { method: "PUT", body: "other" }));
        return said""", answer=platform) == [True, False, "http://h/a?b", "POST", False, "TypeError"]
    assert [(params["method"], params["body"]) for _, params in platform.asked] == [("POST", "text"), ("PUT", "other")]


@pytest.mark.parametrize("call", [
    "fetch('/relative')", "fetch('ftp://h/')", "fetch('http://u:p@h/')", "fetch('http://h/', { body: 'x' })",
    "fetch('http://h/', { method: 'TRACE' })", "fetch('http://h/', { method: 'A B' })", "fetch('http://h/', { redirect: 'manual' })",
    "fetch('http://h/', { method: 'POST', body: { a: 1 } })", "fetch('http://h/', { headers: { 'a b': 'c' } })",
    "fetch('http://h/', { headers: { a: 'b\\r\\nc: d' } })", "fetch('http://h/', { headers: { a: '中' } })", "fetch('http://h/', { signal: {} })"])
def test_what_cannot_be_sent_rejects_before_anything_is(call: str) -> None:
    platform = Platform()
    assert run(f"return {call}.then(() => 'sent', error => [error.name, error.message.length > 10])", answer=platform) == ["TypeError", True]
    assert platform.asked == []


def test_a_refusal_of_the_platform_is_the_error_that_plugin_api_fetch_gives() -> None:
    assert run("""try { await fetch("http://h/") } catch (error) {
            return [error.code, error.method, error instanceof plugin.errors.ApiError, error.stack.includes("t/index.js")];
        }""", answer=Platform("host_not_allowed")) == ["host_not_allowed", "fetch", True, True]
    with pytest.raises(Thrown, match="permission_denied") as caught:
        run("await fetch('http://h/')", answer=Platform("permission_denied"))
    assert caught.value.name == "PermissionDenied"


def test_a_signal_that_has_aborted_sends_nothing_and_one_that_aborts_rejects_at_once() -> None:
    platform = Platform()
    assert run("return fetch('http://h/', { signal: AbortSignal.abort('why') }).catch(reason => reason)", answer=platform) == "why"
    assert platform.asked == []
    assert run("""
        const controller = new AbortController(), promise = fetch("http://h/", { signal: controller.signal });
        controller.abort();
        return promise.then(() => "came", error => error.name)""", answer=platform) == "AbortError"
    assert len(platform.asked) == 1


@pytest.mark.parametrize(("body", "expected"), [
    ("\ufeffé", ["é", "\ufeffé".encode(), "\ufeffé".encode()]), (b"\xff\x00a", ["\ufffd\0a", b"\xff\0a", b"\xff\0a"]), ("", ["", b"", b""])])
def test_a_body_is_read_as_text_or_bytes(body: Any, expected: list[Any]) -> None:
    assert run("""
        const response = await fetch("http://h/"), clones = [response.clone(), response.clone()];
        return [await response.text(), await clones[0].bytes(), await clones[1].arrayBuffer()]""",
               answer=Platform({"status": 404, "headers": {}, "body": body})) == expected


def test_a_body_is_read_once() -> None:
    with pytest.raises(Thrown, match="read already: call clone"):
        run("const r = new Response('x'); await r.text(); await r.json()")


def test_headers_are_as_the_standard_says() -> None:
    assert run("""
        const headers = new Headers({ B: "2", a: " 1\\t" });
        headers.append("Set-Cookie", "x=1"); headers.append("set-cookie", "y=2"); headers.append("A", "3");
        const said = [[...headers], headers.get("SET-COOKIE"), headers.getSetCookie(), headers.has("b"), headers.get("none")];
        headers.delete("B"); headers.set("a", "only");
        headers.forEach((value, name) => said.push(name + "=" + value));
        return said""") == [
            [["a", "1, 3"], ["b", "2"], ["set-cookie", "x=1"], ["set-cookie", "y=2"]], "x=1, y=2", ["x=1", "y=2"], True, None, "a=only",
            "set-cookie=x=1", "set-cookie=y=2"]


def test_responses_are_made_as_the_standard_says() -> None:
    assert run("""
        const json = Response.json({ a: 1 }, { status: 201 }), moved = Response.redirect("http://h/x", 301), said = [];
        for (const make of [() => new Response("", { status: 199 }), () => new Response("x", { status: 204 }), () => Response.json(undefined),
                            () => Response.redirect("http://h", 200), () => new Response({})]) {
          try { make(); said.push("made") } catch (error) { said.push(error.name) }
        }
        return [json.status, json.headers.get("content-type"), await json.json(), moved.status, moved.headers.get("location"),
                Response.error().type, new Response("x", { statusText: "Fine" }).statusText, new Response(null).body, said]""") == [
                    201, "application/json", {"a": 1}, 301, "http://h/x", "error", "Fine", None,
                    ["RangeError", "TypeError", "TypeError", "RangeError", "TypeError"]]


def test_a_fetch_while_the_plugin_loads_is_refused() -> None:
    assert run("return loaded", before="let loaded = ''; try { await fetch('http://h/') } catch (error) { loaded = error.code }",
               answer=Platform()) == "cancelled"
