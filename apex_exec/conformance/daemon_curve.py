"""What a daemon does on ``tcp://``: which hosts CURVE lets in, and what is otherwise there than on a unix socket.

The cases of messages and of error codes are tried on this transport, too.
"""

from __future__ import annotations

import msgspec
import zmq

from apex_exec.client import CurveKeys
from apex_exec.conformance.cases import Case, equal, expect
from apex_exec.conformance.curve_host import CurveHost

REFUSED_SECONDS = 1.5
"""How long a host that must not be served waits for an answer."""


def _known(host: CurveHost) -> None:
    with host.another() as other:
        for one in (host, other):
            equal(one.ask({"type": "ping", "id": 1}), {"type": "pong", "id": 1})


def _unknown(host: CurveHost) -> None:
    public, secret = zmq.curve_keypair()
    _is_not_served(host, _own(host)._replace(public=public, secret=secret))


def _wrong_server(host: CurveHost) -> None:
    _is_not_served(host, _own(host)._replace(server_public=zmq.curve_keypair()[0]))


def _without(host: CurveHost) -> None:
    _is_not_served(host, None)


def _is_not_served(host: CurveHost, keys: CurveKeys | None) -> None:
    with CurveHost(host.endpoint, keys) as other:
        expect(not other.is_served_within(REFUSED_SECONDS), "it was answered")
    equal(host.ask({"type": "ping", "id": 1}), {"type": "pong", "id": 1})


def _own(host: CurveHost) -> CurveKeys:
    assert host.keys is not None, "a host that is to be served has keys"
    return host.keys


def _routing_id(host: CurveHost) -> None:
    with CurveHost(host.endpoint, host.keys, b"mine") as other:
        equal(other.ask({"type": "ping", "id": 1})["code"], "PROTOCOL_ERROR")


def _req(host: CurveHost) -> None:
    host.send({"type": "ping", "id": 1}, [b""])
    equal(host.receive_frames(), ([b""], {"type": "pong", "id": 1}))


def _bounds(host: CurveHost) -> None:
    limit: int = host.ask({"type": "hello", "protocol": [1]})["limits"]["maxMessageBytes"]
    bare = len(msgspec.msgpack.encode({"type": "ping", "id": 1, "x": bytes(70_000)})) - 70_000
    host.send({"type": "ping", "id": 1, "x": bytes(limit - bare)})
    equal(host.receive(), {"type": "pong", "id": 1})
    host.send({"type": "ping", "id": 2, "x": bytes(limit - bare + 1)})
    reply = host.receive()
    equal((reply["type"], reply["id"], reply["code"]), ("error", 2, "PAYLOAD_TOO_LARGE"))


def _audit(host: CurveHost) -> None:
    equal(host.ask({"type": "admin", "id": 1, "op": "audit.read", "args": {}})["code"], "FORBIDDEN")


CASES: list[Case[CurveHost]] = [
    Case("curve/known", "Hosts with a key on the list are served.", _known),
    Case("curve/unknown", "A host whose key is not on the list is not served.", _unknown),
    Case("curve/wrong-server", "A host that expects another server's key does not connect.", _wrong_server),
    Case("curve/without", "A host without a key is not served.", _without),
    Case("curve/routing-id", "A routing id of the host's own is a PROTOCOL_ERROR.", _routing_id),
    Case("curve/req", "REQ's empty delimiter comes back before the reply.", _req),
    Case("curve/bounds", "A body of exactly host.max_message_bytes is taken, and a larger one is PAYLOAD_TOO_LARGE.",
         _bounds),
    Case("curve/audit", "The audit is not read over tcp, where the kernel knows of no user.", _audit),
]
