"""Who is a member: by statements whose signatures hold, by the engine's names, and by nothing else."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apex_exec.daemon.fleet.fleet import in_parts
from apex_exec.errors import ConfigError, Refusal
from apex_exec.fleet.books import FolderBook, TableBook
from apex_exec.fleet.engines import engine_of
from apex_exec.fleet.engines.kubernetes import Kubernetes
from apex_exec.fleet.engines.silence import EngineSilent
from apex_exec.fleet.looker import Looker
from apex_exec.fleet.process import announce
from apex_exec.fleet.statements import Statement, members, refused_because, sign
from apex_exec.registry.store import KeyRow
from apex_exec.registry.trust.signing import key_id_of, raw_public
from apex_exec.wire.node_messages import COUNTS_MAX

KEY = Ed25519PrivateKey.generate()
CURVE = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


def row(key: Ed25519PrivateKey = KEY, **changes: object) -> KeyRow:
    public = raw_public(key)
    made = KeyRow(key_id_of(public), "fleet", "node", "ops", public.hex(), "active", 0, 10**19, 0, 0, 0, "")
    return msgspec.structs.replace(made, **changes)


def keys(*rows: KeyRow) -> dict[str, KeyRow]:
    return {one.key_id: one for one in rows}


def statement(name: str = "a", **changes: object) -> Statement:
    made = Statement(name, "tcp://10.0.0.1:9466", CURVE, 2.0, 5)
    return sign(KEY, msgspec.structs.replace(made, **changes))


def test_a_signed_statement_counts_and_any_change_of_it_does_not() -> None:
    good = statement()
    assert refused_because(good, keys(row()), 10) == ""
    for change in ({"name": "b"}, {"endpoint": "tcp://10.0.0.2:9466"}, {"curve": CURVE[::-1]}, {"capacity": 9.0},
                   {"issued_ns": 6}, {"signature": "00" * 64}):
        assert "changed or forged" in refused_because(msgspec.structs.replace(good, **change), keys(row()), 10)


@pytest.mark.parametrize(("known", "words"), [
    ({}, "not registered in the role node"),
    (keys(row(role="author")), "not registered in the role node"),
    (keys(row(state="revoked", reason="stolen")), "was revoked: stolen"),
    (keys(row(valid_until_ns=9)), "has expired"),
])
def test_a_key_that_is_unknown_revoked_expired_or_of_another_role_signs_nothing(known: dict[str, KeyRow],
                                                                               words: str) -> None:
    assert words in refused_because(statement(), known, 10)
    nodes, refused = members([statement()], known, {"a"}, 10)
    assert nodes == [] and words in refused["a"]


@pytest.mark.parametrize("change", [
    {"name": "A b"}, {"name": ""}, {"endpoint": "ipc:///x"}, {"endpoint": "tcp://a b:1"}, {"endpoint": "tcp://a:1;tcp://b:2"},
    {"curve": "short"}, {"capacity": 0.0}, {"capacity": float("nan")}, {"capacity": float("inf")}])
def test_what_is_no_statement_is_not_even_signed(change: dict[str, object]) -> None:
    with pytest.raises(Refusal):
        statement(**change)


def test_two_keys_of_one_node_count_while_it_changes_its_pair_and_the_newest_comes_first() -> None:
    old, new = statement(issued_ns=1, curve=CURVE[::-1]), statement(issued_ns=2)
    (node,), refused = members([old, new, statement("stranger")], keys(row()), {"a"}, 10)
    assert node.curves == [CURVE, CURVE[::-1]] and not refused
    assert "no statement" in members([old], keys(row()), {"a", "b"}, 10)[1]["b"]


def test_a_folder_holds_statements_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    book = FolderBook(tmp_path / "book")
    book.publish(statement("a"))
    book.publish(statement("b"))
    (tmp_path / "book" / "c.node").write_text("{")
    (tmp_path / "book" / "d.node").write_bytes(b"x" * 5000)
    assert [one.name for one in book.read()] == ["a", "b"]


def test_a_table_keeps_the_two_latest_keys_of_a_node(tmp_path: Path) -> None:
    book = TableBook(f"sqlite:///{tmp_path}/registry.db")
    curves = [CURVE[number:] + CURVE[:number] for number in range(3)]
    for number, curve in enumerate(curves):
        book.publish(statement(curve=curve, issued_ns=number))
    book.publish(statement("b"))
    assert [(one.name, one.curve) for one in book.read()] == [
        ("a", min(curves[1:])), ("a", max(curves[1:])), ("b", CURVE)] or len(book.read()) == 3


def test_what_cannot_be_read_stays_as_it_was(tmp_path: Path) -> None:
    book = FolderBook(tmp_path)
    book.publish(statement())
    silent = False

    def known() -> dict[str, KeyRow]:
        if silent:
            raise Refusal("store_unusable", "the registry is away")
        return keys(row())

    class Engine:
        def members(self) -> set[str]:
            if silent:
                raise EngineSilent("DNS is away")
            return {"a"}

    def resolve(host: str) -> str:
        if silent:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return "10.9.8.7"

    looker = Looker(Engine(), book, known, lambda: 10, resolve)
    assert [node.name for node in looker.look().nodes] == ["a"]
    silent = True
    found = looker.look()
    assert [(node.name, node.endpoint) for node in found.nodes] == [("a", "tcp://10.9.8.7:9466")]
    assert "DNS is away" in found.problem and "registry is away" in found.problem


def test_a_node_signs_its_own_statement_if_it_may_and_only_if_something_changed(tmp_path: Path) -> None:
    from apex_exec.registry.trust.signing import new_key

    path, _ = new_key(tmp_path, "fleet")
    book = FolderBook(tmp_path / "book")
    settings = {"signing_key": str(path), "node": "a", "advertise": "tcp://h:1", "capacity": 2.0}
    announce(book, settings, CURVE, 1)
    announce(book, settings, CURVE, 2)
    assert [one.issued_ns for one in book.read()] == [1]
    announce(book, {**settings, "capacity": 3.0}, CURVE, 3)
    assert [(one.issued_ns, one.capacity) for one in book.read()] == [(3, 3.0)]
    announce(book, {**settings, "signing_key": "", "capacity": 4.0}, CURVE, 4)
    assert book.read()[0].capacity == 3.0


def pods(*numbers: int, again: bool = False) -> Kubernetes:
    def resolve(host: str) -> None:
        name, _, service = host.partition(".")
        assert service == "apex.shop.svc"
        if again:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        if int(name.rpartition("-")[2]) not in numbers:
            raise socket.gaierror(socket.EAI_NONAME, "no name")

    return Kubernetes("apex-exec-0", ["apex.shop.svc"], resolve)


def test_kubernetes_names_the_pods_that_the_headless_service_knows() -> None:
    assert pods(0, 1, 2).members() == {"apex-exec-0", "apex-exec-1", "apex-exec-2"}
    assert pods(0, 2, 4).members() == {"apex-exec-0", "apex-exec-2", "apex-exec-4"}, "one that starts is left out"
    assert pods(*range(30)).members() == {f"apex-exec-{number}" for number in range(30)}
    with pytest.raises(EngineSilent, match="does not answer"):
        pods(0, again=True).members()
    with pytest.raises(EngineSilent, match="does not know this pod"):
        pods(1).members()


def test_a_configuration_that_names_no_pod_or_no_engine_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="StatefulSet"):
        Kubernetes("web", ["x"])
    with pytest.raises(ConfigError, match="headless Service"):
        Kubernetes("web-0", [])
    with pytest.raises(ConfigError, match="this release has no engine"):
        engine_of("nomad", "a", [], tmp_path)


def test_counts_are_handed_over_in_messages_that_may_arrive() -> None:
    windows = {"big": [(n, "u") for n in range(COUNTS_MAX + 5)], "small": [(1, "u")], "none": []}
    parts = list(in_parts(windows))
    assert all(sum(map(len, part.values())) <= COUNTS_MAX for part in parts)
    assert [one for part in parts for one in part.get("big", [])] == windows["big"]
    assert [one for part in parts for one in part.get("small", [])] == windows["small"]
