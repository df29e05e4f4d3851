"""What the simulator itself knows of calls, breakers and workers, written from the protocol, not from the core."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy

MS = 1_000_000
CHARGED = {"crashed", "deadline", "memory", "cpu", "violation", "boot_failed"}
"""Exit reasons that count against a plugin (issue: stops, cancels and the zygote's loss do not)."""


@dataclass(eq=False)
class Asked:
    """One invocation as the host sees it, and what truly happened to it."""

    call: int
    plugin: str
    user: str
    deadline_ns: int
    asked_ns: int
    version: int  # of the plugin's content in force when it was admitted
    canary: bool = False
    verdict: str | None = None
    started: bool = False
    cancelled_ns: int = 0
    links: int = 0
    on: int = 0  # the worker on whose link it stands; 0 where it waits
    runs: int = 0  # times that its hook truly began, in honest workers
    replied: bool = False


@dataclass(eq=False)
class SimWorker:
    """One process: what it truly does, and what of it the pool can have heard."""

    id: int
    spec: PluginSpec
    born_ns: int
    honest: bool = True
    alive: bool = True  # as a process
    forked: bool = True
    ready: bool = False  # the pool has heard of it
    booted: bool = False
    killed: str = ""  # reason of KillWorker
    stopped: str = ""
    stopped_ns: int = 0
    leaves: bool = True  # obeys a half-closed link
    pongs: bool = True
    paused: bool = False
    unreported: bool = False  # its end will not be reported while this zygote lives
    stalled: list[tuple[str, object]] = field(default_factory=list)  # what it could not do while paused
    inbox: deque[tuple[int, Asked]] = field(default_factory=deque)
    asked_back: set[int] = field(default_factory=set)  # seqs that the pool has recalled
    recalled: set[int] = field(default_factory=set)  # those of them that it has heard of
    running: tuple[int, Asked] | None = None
    started: int = 0  # calls that it has counted as started
    link: deque[Asked] = field(default_factory=deque)  # unanswered, as the pool can know
    sent: int = 0
    oldest_ns: int = 0  # since when link[0] is the oldest
    heard_ns: int = 0
    used_ns: int = 0
    ping_ns: int = 0
    pings: int = 0
    ponged_ns: int = 0
    doubted: int = -1  # the seq of the call that the governor says it hesitates to begin
    boot_due_ns: int = 0
    lied: bool = False
    memory_bytes: int = 10_000_000


class RefBreaker:
    """The breakers of a plugin and of its users in forty lines."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.ends: list[tuple[int, str]] = []
        self.users: dict[str, tuple[list[int], int]] = {}  # user → ends by the user's calls, until when it is paused
        self.last_culprit = ""
        self.consecutive = 0
        self.open_until_ns = 0
        self.probe: Asked | None = None
        self.last_end_ns = 0
        self.waived = False

    def state(self, now_ns: int) -> str:
        """As the protocol names it."""
        if not self.open_until_ns:
            return "closed"
        return "open" if now_ns < self.open_until_ns else "half_open"

    def ended(self, now_ns: int, ran_ns: int, trip: bool, culprit: str) -> bool:
        """One charged end, by a call of ``culprit`` if that is not ""; True where it opens the plugin's breaker."""
        policy = self.policy
        self.last_end_ns = now_ns
        self.waived = False
        self.ends = [*self.ends, (now_ns, culprit)][-policy.ends_max:]
        users = {name or f"nobody {n}" for n, (_, name) in enumerate(self.ends)}
        of_many = len(users) >= min(3, policy.ends_max)
        if ran_ns >= policy.stable_ns:
            self.consecutive = 1
        elif self.consecutive == 0 or culprit == "":
            self.consecutive += 1
        elif of_many and culprit != self.last_culprit:
            self.consecutive += 1
        self.last_culprit = culprit
        full = len(self.ends) == policy.ends_max and now_ns - self.ends[0][0] <= policy.window_ns
        probe_failed = self.probe is not None and (culprit == "" or of_many)
        opens = trip or full and of_many or probe_failed
        if opens:
            self.open_until_ns = now_ns + policy.open_ns
            self.ends = []
            self.last_culprit = ""
        self.probe = None
        return opens

    def user_ended(self, user: str, now_ns: int) -> bool:
        """The same end as one of the user's; True where the user's calls are refused from now on."""
        ends, until_ns = self.users.get(user, ([], 0))
        if now_ns < until_ns:
            return False
        ends = [*ends, now_ns][-self.policy.ends_max:]
        full = len(ends) == self.policy.ends_max and now_ns - ends[0] <= self.policy.window_ns
        pauses = bool(full or until_ns or self.probe is not None)
        self.users[user] = ([], now_ns + self.policy.open_ns) if pauses else (ends, 0)
        return pauses

    def user_paused(self, user: str, now_ns: int) -> bool:
        """Whether the user's calls are refused."""
        return now_ns < self.users.get(user, ([], 0))[1]

    def user_succeeded(self, user: str, now_ns: int) -> None:
        """A call of the user's was answered."""
        ends, until_ns = self.users.get(user, ([], 0))
        if 0 < until_ns <= now_ns or ends and now_ns - ends[-1] > self.policy.window_ns:
            del self.users[user]

    def trip(self, now_ns: int) -> None:
        """It opens, whatever was counted."""
        self.open_until_ns, self.ends, self.probe, self.last_culprit = now_ns + self.policy.open_ns, [], None, ""

    def reset(self) -> None:
        """An operator lets the plugin be called again."""
        self.ends, self.consecutive, self.open_until_ns, self.probe, self.waived = [], 0, 0, None, True
        self.users, self.last_culprit = {}, ""

    def earliest_start_ns(self) -> int:
        """Before this no worker may be started."""
        if self.consecutive < 2 or self.waived:
            return 0
        wait_ns = min(self.policy.backoff_max_ns, self.policy.backoff_min_ns << min(self.consecutive - 2, 20))
        return self.last_end_ns + max(self.policy.backoff_min_ns, wait_ns // 2)


class SimPlugin:
    """One plugin id over its lives."""

    def __init__(self, spec: PluginSpec, policy: BreakerPolicy) -> None:
        self.spec = spec
        self.breaker = RefBreaker(policy)
        self.version = 0
        self.begun: list[int] = []  # calls in the order in which their hooks truly began
        self.admitted: list[int] = []


class Broken(AssertionError):
    """An invariant does not hold."""
