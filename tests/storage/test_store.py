"""What plugins keep: apart by plugin and user, within both quotas, with its record or not at all."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from apex_exec.config import Settings
from apex_exec.errors import Refusal
from apex_exec.storage.entries import COMMON, Full, Place, Waiting
from apex_exec.storage.operations import KeptByPlugins
from apex_exec.storage.store import ENTRY_BYTES, Store
from apex_exec.storage.tables import entries, outbox, totals, used
from tests.storage.conftest import record

A, B = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
SECONDS = 10.0
NUMBERS = itertools.count(1)


def put(store: Store, plugin: str, user: str, key: str, size: int) -> None:
    store.set(Place(plugin, user), key.encode(), b"\xc4" + bytes(size - 1), 7, record(next(NUMBERS)), "here", SECONDS)


def rows(store: Store, table: sa.Table) -> list[Any]:
    with store._engine.begin() as db:
        return list(db.execute(sa.select(table)).all())


def counted_right(store: Store) -> bool:
    """Whether what the quotas go by is what the entries come to."""
    of_user: dict[tuple[str, str], int] = {}
    of_all: dict[str, int] = {}
    for plugin, user, key, value, _ in rows(store, entries):
        size = len(key) + len(value) + ENTRY_BYTES
        of_user[plugin, user] = of_user.get((plugin, user), 0) + size
        of_all[plugin] = of_all.get(plugin, 0) + size
    return (of_user == {(plugin, user): size for plugin, user, size in rows(store, used)}
            and of_all == {plugin: size for plugin, size in rows(store, totals) if size})


def test_an_entry_is_one_plugins_and_one_users(store: Store) -> None:
    for plugin, user in itertools.product(("one", "two"), (A, B, COMMON)):
        store.set(Place(plugin, user), b"key", f"{plugin} {user}".encode(), 7, record(next(NUMBERS)), "here", SECONDS)
    for plugin, user in itertools.product(("one", "two"), (A, B, COMMON)):
        assert store.get(Place(plugin, user), b"key", SECONDS) == f"{plugin} {user}".encode()
    assert store.get(Place("three", A), b"key", SECONDS) is None
    assert store.delete(Place("one", A), b"key", record(next(NUMBERS)), "here", SECONDS)
    assert not store.delete(Place("one", A), b"key", record(next(NUMBERS)), "here", SECONDS)
    assert store.get(Place("one", A), b"key", SECONDS) is None
    assert store.get(Place("one", B), b"key", SECONDS) and store.get(Place("two", A), b"key", SECONDS)


def test_quotas_count_what_is_kept_and_nothing_else(store: Store) -> None:
    free = 1000 - ENTRY_BYTES - 1
    put(store, "p", A, "k", free)
    with pytest.raises(Full, match="this user's entries would have 1001 bytes, and at most 1000"):
        put(store, "p", A, "k", free + 1)
    with pytest.raises(Full):
        put(store, "p", A, "l", 1)
    assert len(store.get(Place("p", A), b"k", SECONDS) or b"") == free, "a refused value replaces nothing"
    put(store, "p", A, "k", 10)
    put(store, "p", A, "l", 100)
    put(store, "other", A, "k", free)
    put(store, "p", B, "k", free)
    with pytest.raises(Full, match="for all users would have"):
        put(store, "p", COMMON, "k", 1500)
    put(store, "p", COMMON, "k", 1001)  # no user's quota holds for what is common
    store.delete(Place("p", B), b"k", record(next(NUMBERS)), "here", SECONDS)
    put(store, "p", COMMON, "k", 1500)
    assert counted_right(store)


def test_a_plugin_over_its_quota_can_still_shrink(url: str) -> None:
    roomy = Store(url, 1000, 2500)
    put(roomy, "p", A, "k", 900)
    roomy.close()
    tight = Store(url, 500, 600)
    with pytest.raises(Full):
        put(tight, "p", A, "new", 1)
    put(tight, "p", A, "k", 800)
    assert tight.delete(Place("p", A), b"k", record(next(NUMBERS)), "here", SECONDS)
    tight.close()


def test_a_write_and_its_record_are_both_kept_or_neither(store: Store) -> None:
    put(store, "p", A, "k", 10)
    (found,) = store.waiting(("here",), 10)
    assert found.event_type == "data.modification" and not store.waiting(("elsewhere",), 10)
    same = Waiting(found.record_id, 1, "data.modification", A, "p", "storage.set", {})
    with pytest.raises(Exception, match="storage store"):  # its record cannot be written twice
        store.set(Place("p", A), b"k", b"\x01", 7, same, "here", SECONDS)
    assert len(store.get(Place("p", A), b"k", SECONDS) or b"") == 10 and counted_right(store)
    store.forget([found.record_id])
    assert not rows(store, outbox)


def test_keys_come_in_the_order_of_their_bytes_on_either_database(store: Store) -> None:
    keys = ["B", "a", "a/1", "a/10", "a/2", "a\u00e4", "b", "\u00e4", "\uffff", "\U0001f600", "\x00"]
    for key in keys:
        put(store, "p", COMMON, key, 1)
    place = Place("p", COMMON)
    listed = [key.decode() for key, _, _ in store.keys(place, b"", b"", 100, SECONDS)]
    assert listed == sorted(keys, key=str.encode)
    assert [key for key, _, _ in store.keys(place, b"a/", b"", 100, SECONDS)] == [b"a/1", b"a/10", b"a/2"]
    assert [key for key, _, _ in store.keys(place, b"a/", b"a/1", 1, SECONDS)] == [b"a/10"]
    assert store.keys(place, b"", "\U0001f600".encode(), 100, SECONDS) == []
    assert store.keys(place, b"b", b"", 1, SECONDS) == [(b"b", 1, 7)]


def test_a_user_is_exported_in_parts_and_erased_whole(store: Store) -> None:
    for plugin, key in itertools.product(("p", "q", "r"), ("a", "b")):
        put(store, plugin, A, key, 50)
        put(store, plugin, B, key, 40)
    put(store, "p", COMMON, "a", 30)
    after, seen, more = ("", b""), [], True
    while more:
        part, more = store.export(A, "", after, 150)
        seen += [(plugin, key) for plugin, key, _, _ in part]
        after = seen[-1][0], seen[-1][1]
    assert seen == list(itertools.product("pqr", (b"a", b"b")))
    assert [row[:2] for row in store.export(A, "q", ("", b""), 10**6)[0]] == [("q", b"a"), ("q", b"b")]
    assert store.erase(A, "q") == (2, ["q"])
    assert store.erase(A) == (4, ["p", "r"]) and store.erase(A) == (0, [])
    assert store.export(A, "", ("", b""), 10**6) == ([], False)
    assert len(store.export(B, "", ("", b""), 10**6)[0]) == 6 and store.get(Place("p", COMMON), b"a", SECONDS)
    assert counted_right(store)
    assert store.forget_plugin("p") == 3 and store.get(Place("p", COMMON), b"a", SECONDS) is None
    assert counted_right(store)


@pytest.mark.slow
def test_writers_beside_each_other_exceed_no_quota_and_lose_no_count(store: Store) -> None:
    refused: list[str] = []

    def write(lane: int) -> None:
        for number in range(30):
            try:
                put(store, "p", [A, B, COMMON][lane % 3], f"{lane}-{number}", 20 + number)
            except Full:
                refused.append("full")
            if number % 3 == 0:
                store.delete(Place("p", [A, B, COMMON][lane % 3]), f"{lane}-{number}".encode(),
                             record(next(NUMBERS)), "here", SECONDS)

    threads = [threading.Thread(target=write, args=(lane,)) for lane in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted_right(store) and refused
    assert max(size for *_, size in rows(store, used) if size) <= 2500
    assert rows(store, totals)[0].bytes <= 2500


def test_a_plugin_stays_while_what_it_kept_cannot_be_reached(tmp_path: Path) -> None:
    """Another plugin may get its id: what is kept is to go with it, or neither."""
    (tmp_path / "storage.db").write_bytes(b"not a database" * 100)
    removed: list[str] = []

    def remove(_context: Any, args: Any) -> dict[str, Any]:
        removed.append(args.id)
        return {}

    context: Any = SimpleNamespace(settings=Settings(state_dir=str(tmp_path)))
    with pytest.raises(Refusal):
        KeptByPlugins().with_removal(remove)(context, SimpleNamespace(id="p"))
    assert not removed
