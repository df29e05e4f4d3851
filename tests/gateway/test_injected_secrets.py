"""Secrets that the gateway puts into requests: to their hosts, to nobody else, and out of what comes back."""

from __future__ import annotations

from typing import Any

import pytest

from apex_exec.catalogue.methods import Fetch
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http.fetch import Fetcher
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
