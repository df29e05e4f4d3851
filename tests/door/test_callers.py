"""What callers share, divided among them, on a clock that the test sets."""

from __future__ import annotations

from apex_exec.door.callers import BURST_SECONDS, REQUEST_SECONDS, Caller, Rates, Shares


def caller(key: str, rate: int = 60) -> Caller:
    nothing: frozenset[str] = frozenset()
    return Caller(key=key, name=key, user="", act_as=False, plugins=nothing, hooks=nothing, scopes=nothing,
                  requests_per_minute=rate)


def test_a_dear_request_counts_as_several_of_its_own_caller() -> None:
    rates, dear, other = Rates(), caller("dear"), caller("other")
    assert rates.take(dear, 100.0) == 0
    rates.spent(dear, REQUEST_SECONDS)
    assert rates.take(dear, 100.0) == 0, "an ordinary one has paid for itself"
    rates.spent(dear, 20 * REQUEST_SECONDS)
    assert BURST_SECONDS < rates.take(dear, 100.0) <= 20
    assert rates.take(other, 100.0) == 0
    assert rates.take(dear, 125.0) == 0, "it is served again when it is paid for"
    rates.spent(caller("unknown"), 99.0)
    assert rates.take(caller("unknown"), 100.0) == 0


def test_nobody_holds_more_places_than_are_left() -> None:
    shares = Shares(16)
    held = {key: sum(shares.take(key) for _ in range(99)) for key in ("a", "b", "c", "d")}
    assert held == {"a": 8, "b": 4, "c": 2, "d": 1}
    assert not shares.take("a") and shares.take("e") and not shares.take("f"), "the last one is gone"
    for _ in range(8):
        shares.give_back("a")
    assert shares.take("f") and Shares(1).take("a")
