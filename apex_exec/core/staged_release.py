"""Who is offered a release that goes out in stages, and when its failures stop it. Pure.

**Who.** Every customer has a place of its own in every release: a hash of both, from 0 to 9,999. A release at 25 % is
offered to the places below 2,500. So a customer that was in at 5 % is in at 25 %, and it is not always the same ones
that try a release first.

**When it stops.** The failures of the new version are compared with those of the version before it by Fisher's exact
test, one-sided: given how many of all calls failed, how likely is it that the new version had that share of them or
more, if it fails as often as the old one? That likelihood holds for any number of calls, also for very few, and needs
no estimate. The test is repeated while calls arrive, which would find a difference sooner or later where none is. So it
is made only at looks that the number of calls decides (20, 30, 45, … half as many again), and look ``k`` may be wrong
with a probability of ``ERROR / (k (k + 1))``. These add up to ``ERROR`` however long the release runs: at most one good
release in a hundred is halted. A difference that is sure and small does not halt either: see ``MARGIN``.

If there is no version before it, or too few calls of that, the new version is held to ``RATE_WITHOUT_PREVIOUS`` by the
exact binomial test, at the same looks. The tests assume that calls fail independently of each other: a user who repeats
one bad call counts as often as the call is made, and may halt a good release.
"""

from __future__ import annotations

import hashlib
import math

import msgspec

PLACES = 10_000
CALLS_MIN = 20
"""Calls before the first look. Nothing is decided by fewer."""
LOOK_GROWTH = 1.5
"""A look at each half as many calls again: what begins to fail at call n is looked at by call 1.5 n."""
ERROR = 0.01
"""How likely it may be, over all looks together, that a release is halted which fails no more than the one before."""
MARGIN = 0.01
"""The new version's rate of failures must also be this much higher: in a million calls anything is significant."""
RATE_WITHOUT_PREVIOUS = 0.05
"""The rate of failures that a version may have if it has no version before it to be compared with."""
LOOKS_MAX = 100
"""Half as many calls again, a hundred times, are more calls than there will be."""
_NEGLIGIBLE = 1e-18
"""Terms of a tail that are this small beside its sum end the summing: each further one is smaller still."""


def place_of(release: str, customer: str) -> int:
    """The place of ``customer`` in ``release``, which is a bundle's digest: 0 to PLACES - 1, the same for good."""
    found = hashlib.sha256(f"{len(release)}:{release}{customer}".encode()).digest()
    return int.from_bytes(found[:8], "big") % PLACES


def is_offered(release: str, customer: str, percent: int) -> bool:
    """Whether a release that is at ``percent`` of the customers (0 to 100) is offered to this one."""
    return place_of(release, customer) < percent * PLACES // 100


class Tally(msgspec.Struct, frozen=True):
    """Calls of one version that ran, and how many of them failed by the plugin's fault."""

    calls: int = 0
    failures: int = 0

    @property
    def rate(self) -> float:
        """Failures of each call; 0 without a call."""
        return self.failures / self.calls if self.calls else 0.0


class Judgement(msgspec.Struct, frozen=True):
    """What a look has found. ``likelihood`` is that of these failures or more if the new version fails as often as the
    old one; ``allowed`` is what this look may be wrong by. ``halt`` says that the release must not go on."""

    look: int
    likelihood: float
    allowed: float
    halt: bool
    compared: bool
    """Whether there was a version before it to compare with."""


def look_at(calls: int) -> int:
    """The number of the latest look that is due after ``calls`` calls; 0 before the first."""
    if calls < CALLS_MIN:
        return 0
    look = 1 + int(math.log(calls / CALLS_MIN, LOOK_GROWTH))
    while _due(look + 1) <= calls:  # the logarithm may be off by one at a bound
        look += 1
    while _due(look) > calls:
        look -= 1
    return min(look, LOOKS_MAX)


def _due(look: int) -> int:
    return math.ceil(CALLS_MIN * LOOK_GROWTH ** (look - 1))


def judge(new: Tally, old: Tally, looked: int) -> Judgement | None:
    """What the figures say, if a look is due that was not made before; ``looked`` is the number of the latest that was.

    None means that nothing is to be decided now. A look that was missed is not made up for: only the latest counts.
    """
    look = look_at(new.calls)
    if look <= looked:
        return None
    compared = old.calls >= CALLS_MIN
    likelihood = fisher(new, old) if compared else binomial(new, RATE_WITHOUT_PREVIOUS)
    allowed = ERROR / (look * (look + 1))
    expected = old.rate if compared else RATE_WITHOUT_PREVIOUS
    return Judgement(look, likelihood, allowed, likelihood <= allowed and new.rate >= expected + MARGIN, compared)


def fisher(new: Tally, old: Tally) -> float:
    """How likely it is that at least ``new.failures`` of all failures were the new version's, if failures fall on all
    calls alike: the upper tail of the hypergeometric distribution. At most 1."""
    calls, failures = new.calls + old.calls, new.failures + old.failures
    if not failures or new.failures * calls <= failures * new.calls:
        return 1.0  # no more than its share: nothing speaks against it, and the tail would be long
    whole = _log_choose(calls, failures)
    tail = 0.0
    for count in range(new.failures, min(failures, new.calls) + 1):
        if failures - count > old.calls:
            continue
        term = math.exp(_log_choose(new.calls, count) + _log_choose(old.calls, failures - count) - whole)
        tail += term
        if term <= tail * _NEGLIGIBLE:
            break
    return min(1.0, tail)


def binomial(new: Tally, rate: float) -> float:
    """How likely at least ``new.failures`` failures are if each call fails with the probability ``rate``, 0 < rate < 1.
    """
    if new.failures <= rate * new.calls:
        return 1.0
    tail = 0.0
    for count in range(new.failures, new.calls + 1):
        term = math.exp(_log_choose(new.calls, count) + count * math.log(rate)
                        + (new.calls - count) * math.log1p(-rate))
        tail += term
        if term <= tail * _NEGLIGIBLE:
            break
    return min(1.0, tail)


def _log_choose(of: int, count: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
