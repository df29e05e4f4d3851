"""What a book, a registry, a name server and a clock can do to the process that knows the members: nothing but what is
said in one line."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apex_exec.core.owners import SLOTS, owners
from apex_exec.errors import Refusal
from apex_exec.fleet import books
from apex_exec.fleet.books import Book, FolderBook, TableBook
from apex_exec.fleet.engines.static import Static
from apex_exec.fleet.looker import WAIT_SECONDS, Looker, Own, address_of
from apex_exec.fleet.process import announce
from apex_exec.fleet.statements import Statement, check_words, members, read, sign
from apex_exec.registry.store import KeyRow
from apex_exec.registry.trust.signing import key_id_of, new_key, raw_public
from tests.fleet.test_members import CURVE, KEY, keys, row, statement

CURVES = [CURVE[number:] + CURVE[:number] for number in range(8)]


def looker(book: Book, *names: str, known: Callable[[], dict[str, KeyRow]] = lambda: keys(row()),
           resolve: Callable[[str], str] = lambda host: host, file: Path | None = None, own: Own | None = None,
           now_ns: int = 10) -> Looker:
    return Looker(Static(names), book, known, lambda: now_ns, resolve, file=file, own=own)


def two(folder: Path) -> FolderBook:
    book = FolderBook(folder)
    book.publish(statement("a", curve=CURVES[0]))
    book.publish(statement("b", curve=CURVES[1]))
    return book


# ---------------------------------------------------------------------- the book
def test_a_book_that_is_gone_changes_no_member(tmp_path: Path) -> None:
    """A folder that is not mounted lists nothing, and that would have each node own everything."""
    one = looker(two(tmp_path / "book"), "a", "b")
    before = one.look()
    assert [node.name for node in before.nodes] == ["a", "b"]
    (tmp_path / "book").rename(tmp_path / "elsewhere")
    after = one.look()
    assert after.nodes == before.nodes and "the book cannot be read" in after.problem and "\n" not in after.problem
    (tmp_path / "elsewhere").rename(tmp_path / "book")
    assert one.look() == before


def test_a_file_that_is_half_written_counts_as_what_it_was(tmp_path: Path) -> None:
    one = looker(two(tmp_path), "a", "b")
    before = one.look()
    (tmp_path / "b.node").write_bytes((tmp_path / "b.node").read_bytes()[:40])
    assert one.look() == before
    (tmp_path / "b.node").unlink()
    assert [node.name for node in one.look().nodes] == ["a"], "who removes the file removes the node"


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless", "deep", "loop", "text"])
def test_what_is_no_file_or_no_statement_neither_stops_nor_ends_the_reading(
        tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    book = two(tmp_path)
    path = tmp_path / "c.node"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "deep":
        good = msgspec.json.encode(statement("c"))
        path.write_bytes(good[:-1] + b',"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes(b'{"name":"\\ud800\xff\n\x1b[31m')
    with within(5), caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [one.name for one in book.read()] == ["a", "b"]
    (line,) = caplog.messages
    assert "is not a statement" in line and line.isprintable(), "one line, once"


def test_a_row_that_is_no_statement_is_logged_once_and_a_huge_one_is_not_even_fetched(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    book = TableBook(url)
    book.publish(statement("b"))
    engine = sa.create_engine(url)
    with engine.begin() as db:
        for name, text in (("a\n", "{"), ("c", "x" * 5000)):
            db.execute(sa.insert(books.statements).values(name=name, curve=name, issued_ns=1, statement=text))
    engine.dispose()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [one.name for one in book.read()] == ["b"]
    assert len(caplog.messages) == 1 and caplog.messages[0].isprintable()


def test_the_members_of_the_last_answer_hold_through_a_restart_at_which_nothing_answers(tmp_path: Path) -> None:
    file = tmp_path / "members.known"
    before = looker(two(tmp_path / "book"), "a", "b", file=file).look()

    class Away:
        def read(self) -> list[Statement]:
            raise Refusal("store_unusable", "the server is away")

        def publish(self, statement: Statement) -> None:
            raise AssertionError

    def away() -> dict[str, KeyRow]:
        raise Refusal("store_unusable", "the server is away")

    found = looker(Away(), "a", "b", known=away, file=file).look()
    assert found.nodes == before.nodes and "the book cannot be read: the server is away" in found.problem
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(b"{")
    nothing = looker(Away(), "a", "b", known=away, file=file).look()
    assert nothing.nodes == [] and set(nothing.refused.values()) == {
        "the registered keys cannot be read: the server is away"}, "it is not the statements' fault"


# ---------------------------------------------------------------------- what does not answer
def test_a_name_server_that_hangs_for_one_node_keeps_no_other_and_no_revocation_waiting(tmp_path: Path) -> None:
    book = FolderBook(tmp_path)
    book.publish(statement("a", curve=CURVES[0], endpoint="tcp://good:1"))
    book.publish(statement("b", curve=CURVES[1], endpoint="tcp://hangs:1"))
    book.publish(statement("c", curve=CURVES[2], endpoint="tcp://no..host:1"))
    free = threading.Event()
    state = {"state": "active"}

    def resolve(host: str) -> str:
        if host == "hangs":
            free.wait(60)
        return "10.0.0.1" if host != "no..host" else address_of(host)

    one = looker(book, "a", "b", "c", known=lambda: keys(row(**state)), resolve=resolve)
    with within(WAIT_SECONDS + 1):
        found = one.look()
    assert [node.name for node in found.nodes] == ["a"]
    assert "the address of hangs cannot be read: there is no answer" in found.refused["b"]
    assert "not a valid host name" in found.refused["c"]
    state["state"] = "revoked"
    with within(WAIT_SECONDS + 1):
        assert one.look().nodes == []
    free.set()


def test_a_registry_that_hangs_does_not_keep_the_engine_from_being_heard(tmp_path: Path) -> None:
    free = threading.Event()
    hangs = False

    def known() -> dict[str, KeyRow]:
        if hangs:
            free.wait(60)
        return keys(row())

    book = two(tmp_path)
    one = looker(book, "a", "b", known=known)
    assert len(one.look().nodes) == 2
    hangs = True
    (tmp_path / "b.node").unlink()
    with within(WAIT_SECONDS + 1):
        found = one.look()
    assert [node.name for node in found.nodes] == ["a"] and found.problem == (
        "the registered keys cannot be read: there is no answer yet")
    free.set()


# ---------------------------------------------------------------------- names, pairs, clocks, capacities
def test_two_nodes_with_one_pair_are_told_apart_and_the_first_keeps_it(tmp_path: Path) -> None:
    original, copy = statement("b", issued_ns=1), statement("a", issued_ns=2)
    nodes, refused = members([copy, original], keys(row()), {"a", "b"}, 10)
    assert [node.name for node in nodes] == ["b"]
    assert refused["a"].startswith("its CURVE key is that of the node b, which had it first")
    alone, _ = members([copy], keys(row()), {"a"}, 10)
    assert [node.name for node in alone] == ["a"], "a node that was given another name keeps its pair"


def test_a_node_whose_name_another_has_taken_says_so(tmp_path: Path) -> None:
    path, _ = new_key(tmp_path, "fleet")
    public = raw_public(_private(path))
    known = {key_id_of(public): msgspec.structs.replace(row(), key_id=key_id_of(public), public_key=public.hex())}
    book = TableBook(f"sqlite:///{tmp_path}/registry.db")
    settings = {"signing_key": str(path), "node": "a", "advertise": "tcp://10.0.0.1:1", "capacity": 2.0}
    announce(book, settings, CURVES[0], 1)
    first = looker(book, "a", known=lambda: known, own=Own("a", "tcp://10.0.0.1:1", CURVES[0]))
    assert first.look().refused == {}
    announce(book, {**settings, "advertise": "tcp://10.0.0.2:1"}, CURVES[1], 2)
    why = first.look().refused["a"]
    assert "another node has this name" in why and "CURVE key" in why and "tcp://10.0.0.2:1" in why
    second = looker(book, "a", known=lambda: known, own=Own("a", "tcp://10.0.0.2:1", CURVES[1]))
    assert second.look().refused == {}
    announce(book, {**settings, "advertise": "tcp://10.0.0.3:1"}, CURVES[1], 3)  # a copy, with the same pair
    assert "another address" in second.look().refused["a"]


def _private(path: Path) -> Ed25519PrivateKey:
    from apex_exec.registry.trust.signing import load_private

    return load_private(path)


def test_a_statement_that_was_made_with_a_clock_an_hour_ahead_is_overtaken_all_the_same(tmp_path: Path) -> None:
    path, _ = new_key(tmp_path, "fleet")
    hour = 3600 * 10**9
    book = TableBook(f"sqlite:///{tmp_path}/registry.db")
    settings = {"signing_key": str(path), "node": "a", "advertise": "tcp://old:1", "capacity": 2.0}
    announce(book, settings, CURVES[0], hour)
    announce(book, {**settings, "advertise": "tcp://new:1"}, CURVES[1], 5)
    newest = max(book.read(), key=lambda one: one.issued_ns)
    assert (newest.endpoint, newest.curve) == ("tcp://new:1", CURVES[1])


def test_a_clock_that_is_an_hour_behind_refuses_a_new_key_in_words_that_name_the_clock() -> None:
    _, refused = members([statement("a")], keys(row(valid_from_ns=20)), {"a"}, 10)
    assert refused["a"].endswith("is not valid yet, by this machine's clock")


@pytest.mark.parametrize("capacity", [1e-320, 1e-9, 1e300, -1.0, 0.0])
def test_a_capacity_that_is_a_lie_beyond_measure_is_no_statement(capacity: float) -> None:
    assert "capacity" in check_words(msgspec.structs.replace(statement(), capacity=capacity))


@pytest.mark.parametrize(("weights", "liar_most", "others_least"), [
    ({"liar": 1e9, "a": 1.0, "b": 1.0}, 0.8 * 1.1, 0.09), ({"liar": 0.001, "a": 4.0, "b": 4.0}, 0.07, 0.4)])
def test_a_node_that_lies_about_its_capacity_gets_no_more_than_eight_times_the_smallest_part(
        weights: dict[str, float], liar_most: float, others_least: float) -> None:
    found = owners(weights)
    assert found.count("liar") <= liar_most * SLOTS
    assert min(found.count("a"), found.count("b")) >= others_least * SLOTS


def test_a_statement_of_which_one_byte_was_changed_is_refused_whatever_byte(tmp_path: Path) -> None:
    whole = bytearray(msgspec.json.encode(statement("a")))
    for at in range(len(whole)):
        changed = bytes(whole[:at]) + bytes([whole[at] ^ 1]) + bytes(whole[at + 1:])
        try:
            found = read(changed)
        except ValueError:
            continue
        nodes, _ = members([found], keys(row()), {"a"}, 10)
        assert nodes == [] or found == read(bytes(whole)), changed


def test_a_name_server_error_keeps_the_last_address(tmp_path: Path) -> None:
    book = FolderBook(tmp_path)
    book.publish(statement("a", endpoint="tcp://host:1"))
    fails = False

    def resolve(host: str) -> str:
        if fails:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return "fe80::1"

    one = looker(book, "a", resolve=resolve)
    assert one.look().nodes[0].endpoint == "tcp://[fe80::1]:1"
    fails = True
    assert one.look().nodes[0].endpoint == "tcp://[fe80::1]:1"


def test_a_signature_by_the_right_key_over_other_words_is_none() -> None:
    other = sign(KEY, msgspec.structs.replace(statement("b"), signature=""))
    forged = msgspec.structs.replace(statement("a"), signature=other.signature)
    assert members([forged], keys(row()), {"a"}, 10)[0] == []
