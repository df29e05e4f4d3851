"""People in the ledger stand under pseudonyms, which can be resolved until the person is erased, and never after."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.ledger import people
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.people import PSEUDONYM, people_path
from apex_exec.ledger.reading import Filter, export_rows, last_seqs, read_events
from apex_exec.ledger.records import AuditRecord, LedgerError
from apex_exec.ledger.verify import verify

A, B = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
NOW_NS = 1_796_000_000 * 10**9


def execution(user: str, at_ns: int = NOW_NS) -> list[Any]:
    return [at_ns, user, "p", "onActionExecute", "", 1000, 1.0, "", 0, 0]


def record(user: str, metadata: dict[str, Any] | None = None, event_type: str = "data.access", action: str = "query"
           ) -> AuditRecord:
    return AuditRecord(NOW_NS, event_type, user, "p", action, "success", metadata or {})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AuditStore]:
    made = AuditStore(tmp_path / "audit.db", tmp_path)
    yield made
    made.release()


def bodies(store: AuditStore) -> list[str]:
    assert store.db is not None
    return [body for body, in store.db.execute("SELECT body FROM events ORDER BY seq")]


def users_of(path: Path, **wanted: Any) -> list[str]:
    return [event.user_id for event in read_events(path, Filter(**wanted))]


def files_hold(folder: Path, text: bytes) -> set[str]:
    """The files of the ledger and its keys that contain ``text``."""
    return {path.name for path in folder.iterdir() if path.is_file() and text in path.read_bytes()}


def test_every_users_id_becomes_a_pseudonym_of_its_own_and_readers_see_ids(store: AuditStore) -> None:
    store.append_lines([execution(A), execution(B), execution(A)], {}, 1)
    store.append([record(A, {"tables": ["t"]}), record("uid:0"), record("system"), record("")])
    assert not any(A in body or B in body for body in bodies(store))
    found = [PSEUDONYM.findall(body) for body in bodies(store)]
    assert [len(one) for one in found] == [1, 1, 1, 1, 0, 0, 0]
    assert found[0] == found[2] == found[3] != found[1]
    assert users_of(store.database) == [A, B, A, A, "uid:0", "system", ""]
    assert users_of(store.database, user=A) == [A] * 3 and last_seqs(store.database, Filter(user=B), 5) == (1, 7)
    assert len(list(export_rows(store.database, Filter(user=A)))) == 3
    assert files_hold(store.database.parent, A.encode()) <= {"audit.people.db", "audit.people.db-wal"}


def test_ids_among_an_operations_arguments_and_in_its_reasons_are_veiled_too(store: AuditStore) -> None:
    arguments = {"args": {"id": "p", "user": A.upper(), "key": B}, "reason": f"for {A}: x"}
    store.append([record(A), record("uid:0", arguments, "admin.action", "plugin.enable"),
                  record(B, {"note": f'"userId":"{A}"'}, "plugin.api")])
    assert not any(A in body.lower() for body in bodies(store)[:2])
    assert B in bodies(store)[1], "what is no known user is left as it is: a key, a digest"
    assert A in bodies(store)[2], "a text of a plugin is a text"


def test_pseudonyms_outlast_a_restart_and_a_second_user_costs_no_key_twice(store: AuditStore, tmp_path: Path) -> None:
    store.append_lines([execution(A)], {}, 1)
    store.close()
    again = AuditStore(tmp_path / "audit.db", tmp_path)
    again.append_lines([execution(A)], {}, 2)
    assert bodies(again)[0].split('"userId"')[1][:40] == bodies(again)[1].split('"userId"')[1][:40]
    again.release()
    assert len(set(users_of(tmp_path / "audit.db"))) == 1


def test_an_erased_person_is_found_by_no_key_and_the_chain_still_holds(store: AuditStore, tmp_path: Path) -> None:
    store.append_lines([execution(A), execution(B)], {}, 1)
    was = PSEUDONYM.findall(bodies(store)[0])[0]
    keys = sqlite3.connect(people_path(store.database))
    (key,) = keys.execute("SELECT key FROM people WHERE user_id = ?", (A,)).fetchone()
    keys.close()
    assert people.pseudonym_of(A, key) == was
    assert people.erase(store.database, A) and not people.erase(store.database, A)
    assert users_of(store.database) == [was, B] and users_of(store.database, user=A) == []
    assert not files_hold(tmp_path, A.encode())
    assert not files_hold(tmp_path, key), "the key's bytes are overwritten"
    store.append_lines([execution(A)], {}, 2)
    anew = PSEUDONYM.findall(bodies(store)[2])[0]
    assert anew != was and users_of(store.database) == [was, B, A], "who calls again is another person to the ledger"
    store.write_head()
    assert verify(store.database, tmp_path).finding is None


def test_a_key_that_was_deleted_by_hand_is_found_and_one_that_an_erasure_destroyed_is_not(
        store: AuditStore, tmp_path: Path) -> None:
    store.append_lines([execution(A), execution(B)], {}, 1)
    store.write_head()
    assert people.erase(store.database, A)
    assert verify(store.database, tmp_path).finding is None
    with contextlib.closing(sqlite3.connect(people_path(store.database), isolation_level=None)) as keys:
        keys.execute("DELETE FROM people")
        found = verify(store.database, tmp_path).finding
        assert found is not None and (found.kind, found.seq) == ("keys", 2) and "by hand" in found.message
        keys.execute("DELETE FROM erased")  # as of an erasure by an earlier release, whose event names the pseudonym
    was, other = (PSEUDONYM.findall(body)[0] for body in bodies(store))
    for pseudonym, lost in ((was, other), (other, "")):
        store.append([record("uid:0", {"pseudonym": pseudonym}, "admin.action", "audit.erase")])
        store.write_head()
        found = verify(store.database, tmp_path).finding
        assert (found is None) == (not lost) and (found is None or lost in found.message)


def test_events_with_the_id_itself_have_the_pseudonym_of_the_erased_until_their_month_is_closed(
        store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(people.People, "veil", lambda _self, _lines: None)
        store.append_lines([execution(A), execution(B)], {}, 1)  # before there were pseudonyms
    store.append_lines([execution(A)], {}, 2)
    was = PSEUDONYM.findall(bodies(store)[2])[0]
    assert people.erase(store.database, A, "2026-11")
    assert users_of(store.database) == [was, B, was], "a bill of the month has two persons"
    people.forget_plain(store.database, "2026-10")
    assert users_of(store.database) == [was, B, was]
    people.forget_plain(store.database, "2026-11")
    assert users_of(store.database) == [A, B, was]
    with contextlib.closing(sqlite3.connect(people_path(store.database))) as keys:
        assert keys.execute("SELECT pseudonym, plain, month FROM erased").fetchall() == [(was, None, None)]


def test_a_ledger_that_cannot_have_keys_records_nothing(store: AuditStore, tmp_path: Path) -> None:
    store.append_lines([execution(A)], {}, 1)
    locked = sqlite3.connect(people_path(store.database), isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    lines = [execution(A), execution(B)]
    with pytest.raises(LedgerError, match="keys of the ledger's pseudonyms"):
        store.append_lines(lines, {}, 2)
    assert users_of(store.database) == [A]
    locked.execute("ROLLBACK")
    store.append_lines(lines, {}, 3)  # as the ledger process tries them again
    assert users_of(store.database) == [A, A, B]


def test_lost_and_foreign_keys_are_refused_at_the_start_and_found_by_verify(store: AuditStore, tmp_path: Path) -> None:
    store.append_lines([execution(A)], {}, 1)
    store.close()
    path = people_path(tmp_path / "audit.db")
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(LedgerError, match="are missing"):
        AuditStore(tmp_path / "audit.db", tmp_path)
    finding = verify(tmp_path / "audit.db", tmp_path).finding
    assert finding is not None and finding.kind == "keys"
    with pytest.raises(LedgerError, match="are missing"):
        users_of(tmp_path / "audit.db")
    people.People(path).close()
    with pytest.raises(LedgerError, match="another ledger"):
        AuditStore(tmp_path / "audit.db", tmp_path)
    path.write_bytes(kept)
    assert users_of(tmp_path / "audit.db") == [A] and verify(tmp_path / "audit.db", tmp_path).finding is None


def test_a_ledger_of_before_with_plain_ids_verifies_is_read_and_goes_on_with_pseudonyms(
        store: AuditStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(people.People, "veil", lambda _self, _lines: None)
        store.append_lines([execution(A), execution(B)], {}, 1)
        assert store.db is not None
        store.db.execute("DROP TABLE people")
    store.close()
    people_path(store.database).unlink()
    assert users_of(store.database) == [A, B] and verify(store.database, tmp_path).finding is None
    again = AuditStore(store.database, tmp_path)
    again.append_lines([execution(A)], {}, 2)
    again.close()
    assert users_of(store.database, user=A) == [A, A] and users_of(store.database) == [A, B, A]
    assert verify(store.database, tmp_path).finding is None


def test_a_reader_without_the_keys_sees_pseudonyms(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append_lines([execution(A)], {}, 1)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: may(path, mode) and "people" not in str(path))
    (seen,) = [event.user_id for event in read_events(store.database, named=False)]
    assert PSEUDONYM.fullmatch(seen)


@pytest.mark.slow
def test_memory_and_time_are_bounded_with_many_users(store: AuditStore) -> None:
    users = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(people.KNOWN_MAX + 2000)]
    for start in range(0, len(users), 4000):
        store.append_lines([execution(user) for user in users[start : start + 4000]], {}, start + 1)
    begun = time.process_time()
    store.append_lines([execution(user) for user in users[:4000]], {}, len(users) + 1)
    assert time.process_time() - begun < 5, "a look-up each, by an index"
    assert store._people is not None and len(store._people._known) <= people.KNOWN_MAX + 4000
    assert users_of(store.database, user=users[5]) == [users[5]] * 2
