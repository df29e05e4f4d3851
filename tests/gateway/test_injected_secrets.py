"""Secrets that the gateway puts into requests: to their hosts, to nobody else, and out of what comes back."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from yarl import URL

from apex_exec.catalogue.methods import Fetch
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http.fetch import Fetcher
from apex_exec.gateway.http.injection import Injection, forms
from tests.gateway.http_world import OK, World, response

SECRET = "sk-live-0123456789"
SECRETS = (("apiKey", "X-Api-Key", f"key {SECRET}", SECRET, ("good.test",)),)


def fetch(world: World, url: str, *, secrets: Any = SECRETS, private: bool = True,
          internal: dict[str, list[str]] | None = None, **more: Any) -> tuple[Any, Any]:
    async def no_hop() -> None:
        return None

    async def work() -> Any:
        fetcher = Fetcher(world.allow, private, world.resolve, internal=internal)
        try:
            return await fetcher.fetch(Fetch(url, **more), ("good.test", "other.test"), no_hop, secrets)
        finally:
            await fetcher.close()
    return world.run(work())  # type: ignore[no-any-return]  # what fetch returns


def test_the_header_is_added_for_its_host_alone(world: World) -> None:
    _, facts = fetch(world, world.url("/"))
    assert f"x-api-key: key {SECRET}".encode() in world.server.requests[-1].lower()
    assert facts["secrets"] == "apiKey" and SECRET not in str(facts)
    world.other.routes["/"] = OK
    _, facts = fetch(world, f"http://other.test:{world.other.port}/")
    assert SECRET.encode() not in world.other.requests[-1] and "secrets" not in facts


@pytest.mark.parametrize("back", [False, True])
def test_a_redirect_to_another_host_does_not_carry_it_nor_one_that_leads_back(world: World, back: bool) -> None:
    other = f"http://other.test:{world.other.port}/landed"
    world.server.routes["/away"] = response(b"", f"Location: {other}", status="302 Found")
    world.server.routes["/same"] = response(b"", "Location: /end", status="302 Found")
    world.server.routes["/end"] = OK
    world.other.routes["/landed"] = response(
        b"", f"Location: {world.url('/end')}", status="302 Found") if back else OK
    fetch(world, world.url("/same"))
    assert all(SECRET.encode() in request for request in world.server.requests[-2:])
    sent = len(world.server.requests)
    fetch(world, world.url("/away"))
    assert SECRET.encode() in world.server.requests[sent]
    assert SECRET.encode() not in world.other.requests[-1]
    assert len(world.server.requests) == sent + 1 + back
    if back:
        assert SECRET.encode() not in world.server.requests[-1]


def test_another_port_of_the_host_is_another_origin(world: World) -> None:
    world.allow.append(f"good.test:{world.other.port}")
    world.other.routes["/"] = OK
    world.server.routes["/away"] = response(b"", f"Location: http://good.test:{world.other.port}/", status="307 x")
    fetch(world, world.url("/away"))
    assert SECRET.encode() not in world.other.requests[-1]


def test_what_the_server_echoes_is_taken_out(world: World) -> None:
    body = f'{{"youSent": "key {SECRET}"}}'.encode()
    world.server.routes["/echo"] = response(body, "Content-Type: application/json", f"X-Echo: {SECRET}")
    reply, facts = fetch(world, world.url("/echo"))
    assert reply["body"] == '{"youSent": "key [secret]"}' and reply["headers"]["x-echo"] == "[secret]"
    raw, _ = fetch(world, world.url("/echo"), read_as="bytes")
    assert SECRET.encode() not in raw["body"] and SECRET not in str(facts)


ODD = "s3cr/et-K+y='&\"<0123456789"
ODD_SECRETS = (("apiKey", "X-Api-Key", f"Bearer {ODD}", ODD, ("good.test",)),)
ECHOES: dict[str, Callable[[str], bytes]] = {
    "as JSON": lambda text: json.dumps({"you": text}).encode(),
    "as PHP writes JSON": lambda text: json.dumps(text).replace("/", "\\/").encode(),
    "as Go writes JSON": lambda text: json.dumps(text).replace("&", "\\u0026").replace("<", "\\u003c").encode(),
    "as .NET writes JSON": lambda text: "".join(
        f"\\u{ord(one):04X}" if one in "<>&'\"+`" else one for one in text).encode(),
    "in HTML": lambda text: html.escape(text).encode(), "in HTML, numbers": lambda text: html.escape(text).replace(
        "&#x27;", "&#39;").replace("&quot;", "&#34;").encode(),
    "in a URL": lambda text: f"/?key={quote(text, safe='')}".encode(),
    "in a form": lambda text: quote_plus(text).encode(),
    "in a URL of .NET": lambda text: re.sub("%..", lambda found: found[0].lower(), quote_plus(text)).encode(),
    "in HTML of Go": lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;").replace(
        "+", "&#43;").encode(),
    "in HTML of .NET": lambda text: html.escape(text).replace("+", "&#x2B;").encode(),
    "in HTML of Handlebars": lambda text: html.escape(text).replace("=", "&#x3D;").encode(),
    "in HTML of Mustache": lambda text: html.escape(text.replace("=", "\0")).replace("&#x27;", "&#39;").replace(
        "/", "&#x2F;").replace("\0", "&#x3D;").encode(),
    "in HTML, slashes too": lambda text: html.escape(text).replace("/", "&#x2F;").encode(),
    "in base64": lambda text: base64.b64encode(f"Bearer {text}".encode()),
    "in base64 of more": lambda text: base64.b64encode(f'{{"a": "{text}", "b": 1}}'.encode()),
    "in base64 for URLs": lambda text: base64.urlsafe_b64encode(f"xx{text}".encode()),
    "in UTF-16": lambda text: text.encode("utf-16"), "in UTF-32": lambda text: text.encode("utf-32-be"),
}


@pytest.mark.parametrize("name", ECHOES)
def test_what_the_server_echoes_in_another_form_is_taken_out(world: World, name: str) -> None:
    body = ECHOES[name](ODD)
    charset = {"in UTF-16": "; charset=utf-16", "in UTF-32": "; charset=utf-32-be"}.get(name, "")
    world.server.routes["/echo"] = response(body, f"Content-Type: text/plain{charset}")
    for read_as in ("auto", "bytes", "text"):
        reply, _ = fetch(world, world.url("/echo"), secrets=ODD_SECRETS, read_as=read_as)
        shown = reply["body"] if isinstance(reply["body"], bytes) else reply["body"].encode()
        text = shown.decode({"in UTF-16": "utf-16-le", "in UTF-32": "utf-32-be"}.get(name, "utf-8")
                            if isinstance(reply["body"], bytes) else "utf-8", "replace")
        assert "[secret]" in text and body not in shown and "0123456789" not in text, text


def test_an_escape_of_an_own_charset_is_taken_out(world: World) -> None:
    world.server.routes["/echo"] = response(ODD.encode("cp037"), "Content-Type: text/plain; charset=cp037")
    reply, _ = fetch(world, world.url("/echo"), secrets=ODD_SECRETS)
    assert reply["body"] == "[secret]" and "raw" not in reply


def test_a_name_and_a_password_are_secrets_of_a_value_for_basic(world: World) -> None:
    secret = base64.b64encode(b"operator:correct-horse").decode()
    world.server.routes["/echo"] = response(b'{"user": "operator", "password": "correct-horse"}')
    reply, _ = fetch(world, world.url("/echo"), read_as="text", secrets=(
        ("apiKey", "Authorization", f"Basic {secret}", secret, ("good.test",)),))
    assert reply["body"] == '{"user": "operator", "password": "[secret]"}'


BROKEN = {
    "a status": b"HTTP/1.1 %s\r\n\r\n", "a first line": b"%s\r\n\r\n",
    "a header": b"HTTP/1.1 200 OK\r\nA\x01%s: x\r\n\r\n",
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n",
    "a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\nX: %s\r\n",
    "a host": b"HTTP/1.1 302 Found\r\nLocation: http://%s.example/\r\nContent-Length: 0\r\n\r\n",
    "an encoding": b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: 1\r\n\r\nx",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("before", [b"", b"x" * 385])
def test_no_error_has_a_secret_that_a_broken_answer_repeats(world: World, name: str, before: bytes) -> None:
    async def broken(writer: Any) -> None:
        writer.write(BROKEN[name] % (before + SECRET.encode()))
        await writer.drain()

    world.server.routes["/broken"] = broken
    with pytest.raises(ApiFailure) as failed:
        fetch(world, world.url("/broken"))
    for begin in range(len(SECRET) - 5):
        assert SECRET[begin:begin + 6].lower() not in failed.value.message.lower(), failed.value.message


def test_the_name_of_a_header_has_no_secret(world: World) -> None:
    world.server.routes["/echo"] = response(b"", f"X-{SECRET.upper()}-Y: x")
    reply, _ = fetch(world, world.url("/echo"))
    assert SECRET not in str(reply) and "x-[secret]-y" in reply["headers"]


def test_a_message_has_no_secret_in_other_letters_beside_the_secret_itself() -> None:
    secret = "sk-Live-0123456789"
    one = Injection((("apiKey", "X-Api-Key", secret, secret, ("good.test",)),), URL("https://good.test/"), {},
                    plain=False)
    assert one.removed_name(f"{secret} has no host {secret.lower()}") == "[secret]"


def test_to_look_for_every_form_costs_a_few_milliseconds_a_megabyte() -> None:
    assert len(forms(f"Bearer {ODD}", ODD)) < 60 and len(forms(f"key {SECRET}", SECRET)) < 30
    found, body = sorted(forms(f"Bearer {ODD}", ODD)), bytes(range(32, 127)) * 10_000
    begun = time.thread_time()
    assert not any(one.encode() in body for one in found)
    assert time.thread_time() - begun < 0.5


def test_the_plugin_may_not_set_the_header_itself(world: World) -> None:
    with pytest.raises(ApiFailure) as refused:
        fetch(world, world.url("/"), headers={"x-api-KEY": "mine"})
    assert refused.value.code == "url_invalid" and "apiKey" in refused.value.message
    assert not world.server.requests


def test_plain_http_carries_no_secret_outside_the_operators_networks(world: World) -> None:
    for internal, code in (({}, "url_invalid"), ({"good.test": ["10.0.0.0/8"]}, "address_not_allowed")):
        with pytest.raises(ApiFailure) as refused:
            fetch(world, world.url("/"), private=False, internal=internal)
        assert refused.value.code == code
    assert not world.server.connections
