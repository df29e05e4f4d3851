"""Which looks go on record: a page that stays open is one look a minute; whatever differs is another."""

from __future__ import annotations

from apex_exec.daemon.administration.looks import KEPT_MAX, SECONDS, Looks


def test_a_question_that_is_asked_again_and_again_is_recorded_once_a_minute_with_its_number() -> None:
    looks = Looks()
    recorded = [(second, count) for second in range(0, 121, 2) if (count := looks.count("overview", float(second)))]
    assert recorded == [(0, 1), (60, 30), (120, 30)]
    assert sum(count for _, count in recorded) == 61, "no look is lost"


def test_another_person_or_question_is_recorded_at_once_and_what_is_forgotten_again() -> None:
    looks = Looks()
    assert [looks.count(question, 1.0) for question in ("a", "b", "a", "b", "c")] == [1, 1, 0, 0, 1]
    for number in range(KEPT_MAX):
        assert looks.count(number, 2.0) == 1
    assert looks.count("a", 3.0) == 1, "forgetting leads to a record, never to none"
    assert looks.count("a", 3.0 + SECONDS - 0.001) == 0 and looks.count("a", 2.0) > 0, "a clock that goes back records"
