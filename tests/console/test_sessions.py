"""Links work once, sessions end in time, wrong tries are few: by a clock of the test's own."""

from __future__ import annotations

import pytest

from apex_exec.console.sessions import (
    GRACE_SECONDS,
    IDLE_SECONDS,
    LINK_SECONDS,
    LINKS_MAX,
    PERSON_SESSIONS_MAX,
    ROTATE_SECONDS,
    SESSIONS_MAX,
    Links,
    Person,
    Sessions,
    digest,
)

ANNA, BEN = Person("anna", ("operator",)), Person("ben", ("viewer",))
DAY = 86400.0


def test_a_link_signs_in_once_and_looking_at_it_uses_it_not_up() -> None:
    links = Links()
    secret = links.make(ANNA, 0)
    assert links.look(secret, 1) == links.look(secret, 2) == links.take(secret, 3) == ANNA
    assert links.take(secret, 4) is None and links.look(secret, 4) is None


def test_a_link_that_is_too_old_or_ended_or_one_of_too_many_does_not_count() -> None:
    links = Links()
    old, ended = links.make(ANNA, 0), links.make(BEN, 0)
    assert links.look(old, LINK_SECONDS - 0.1) == ANNA and links.take(old, LINK_SECONDS) is None
    assert links.end("ben") == 1 and links.take(ended, 1) is None
    first, *_, last = [links.make(ANNA, 0) for _ in range(LINKS_MAX + 1)]
    assert links.take(first, 1) is None and links.take(last, 1) == ANNA


def test_a_session_ends_when_nobody_uses_it_and_after_its_time_however_busy() -> None:
    sessions = Sessions(DAY)
    session, id_ = sessions.begin(ANNA, 0)
    assert sessions.find(id_, IDLE_SECONDS) is session
    assert sessions.find(id_, 2 * IDLE_SECONDS + 1) is None and len(sessions) == 0
    session, id_ = sessions.begin(ANNA, 0)
    for at in range(0, int(DAY), 1000):
        assert sessions.find(id_, at) is session
    assert sessions.find(id_, DAY + 1) is None


def test_an_id_is_replaced_and_the_one_before_counts_for_a_moment() -> None:
    sessions = Sessions(DAY)
    session, first = sessions.begin(ANNA, 0)
    assert sessions.rotate(session, ROTATE_SECONDS - 1) == ""
    second = sessions.rotate(session, ROTATE_SECONDS)
    assert second and second != first
    assert sessions.find(first, ROTATE_SECONDS + GRACE_SECONDS) is session
    assert sessions.find(first, ROTATE_SECONDS + GRACE_SECONDS + 0.1) is None
    assert sessions.find(second, ROTATE_SECONDS + GRACE_SECONDS + 0.1) is session
    sessions.end(session)
    assert sessions.find(second, ROTATE_SECONDS + 40) is None


def test_a_hundred_rotations_leave_two_ids() -> None:
    sessions = Sessions(DAY)
    session, id_ = sessions.begin(ANNA, 0)
    for turn in range(1, 101):
        assert sessions.find(id_, turn * ROTATE_SECONDS) is session
        id_ = sessions.rotate(session, turn * ROTATE_SECONDS)
    assert len(session.ids) == 2 and sessions.find(id_, 100 * ROTATE_SECONDS) is session


def test_there_are_so_few_sessions_of_one_person_and_of_all_and_what_a_browser_holds_is_not_kept() -> None:
    sessions = Sessions(DAY)
    ids = [sessions.begin(ANNA, at)[1] for at in range(PERSON_SESSIONS_MAX + 1)]
    assert sessions.find(ids[0], 20) is None and sessions.find(ids[1], 20) is not None
    for number in range(SESSIONS_MAX + 5):
        sessions.begin(Person(f"p{number}", ("viewer",)), 30)
    assert len(sessions) == SESSIONS_MAX
    session, id_ = sessions.begin(BEN, 40)
    assert list(session.ids) == [digest(id_)] and len(digest(id_)) == 32
    assert sessions.end_of("ben") == 1 and sessions.find(id_, 41) is None


@pytest.mark.parametrize("forged", ["", "x", "x" * 100_000, "\ud800", "ä", "0" * 43])
def test_a_forged_id_finds_nobody(forged: str) -> None:
    sessions = Sessions(DAY)
    sessions.begin(ANNA, 0)
    assert sessions.find(forged, 1) is None and Links().take(forged, 1) is None
