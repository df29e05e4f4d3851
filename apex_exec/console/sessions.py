"""Who is signed in: one-time links, sessions, and how often somebody may try. Pure: the clock is an argument.

Nothing here outlives the process: a console that starts again knows nobody. What a browser holds is never kept, only
its SHA-256, so that a look into the process's memory or a core file signs nobody in.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict, deque
from typing import Any, NamedTuple

LINK_SECONDS = 600.0
"""A link is for a person who waits for it; ten minutes are enough to pass it on."""
LINKS_MAX = 100
"""Unused links; above it the oldest one ends."""
IDLE_SECONDS = 1800.0
"""A session that nobody uses ends after half an hour."""
ROTATE_SECONDS = 600.0
"""A session's id is replaced after this time, so that one that leaked is soon worth nothing."""
GRACE_SECONDS = 30.0
"""The id before still counts for this time: requests that were under way carry it."""
SESSIONS_MAX = 200
PERSON_SESSIONS_MAX = 10
"""Sessions of one name; above it the oldest one ends."""
NOTES_MAX = 5
FRESH_SECONDS = 300.0
"""How long after signing in a person may do what cannot be undone."""
DRAFTS_MAX = 5
PENDING_SECONDS = 600.0
"""How long a person may be at the provider of identities."""


class NotSignedIn(Exception):
    """The provider did not sign this person in, or the person has no role here. ``str()`` says why."""


class Person(NamedTuple):
    """Somebody who may sign in: the name that goes on record, and the roles that the daemon decides by."""

    name: str
    roles: tuple[str, ...]


class Note(NamedTuple):
    """What the next page says about the last act. ``kind``: done or refused."""

    kind: str
    text: str


class Drafts:
    """What a person had written when a decision was not taken yet: the page shows it again. The latest few."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def keep(self, submission: int, written: dict[str, Any]) -> None:
        """Takes the place of what was kept before."""
        self._kept[submission] = written
        self._kept.move_to_end(submission)
        while len(self._kept) > DRAFTS_MAX:
            self._kept.popitem(last=False)

    def get(self, submission: int) -> dict[str, Any] | None:
        """What is kept; None if nothing is."""
        return self._kept.get(submission)

    def drop(self, submission: int) -> None:
        """Forgets it."""
        self._kept.pop(submission, None)


class Session:
    """One signed-in browser."""

    __slots__ = ("begun", "csrf", "drafts", "ids", "notes", "person", "proven", "rotated", "seen", "wanted")

    def __init__(self, person: Person, now: float, proven: float) -> None:
        self.person = person
        self.csrf = secrets.token_urlsafe(32)
        self.begun = self.seen = self.rotated = now
        self.proven = proven
        """When the person has last shown who it is: by a link, or by a password at the provider. A provider that still
        knows the browser signs in anybody who sits there."""
        self.notes: deque[Note] = deque(maxlen=NOTES_MAX)
        self.drafts = Drafts()
        self.wanted = ""
        """The page that asked for a fresh sign-in: where the next session of this person begins."""
        self.ids: OrderedDict[bytes, float] = OrderedDict()
        """SHA-256 of each id that counts -> until when; the latest last."""

    def is_fresh(self, now: float) -> bool:
        """Whether the person has shown a moment ago who it is."""
        return now - self.proven <= FRESH_SECONDS


def digest(secret: str) -> bytes:
    """What is kept of a secret that somebody else holds."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Links:
    """One-time links that nobody has used yet."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, tuple[Person, float]] = OrderedDict()

    def make(self, person: Person, now: float) -> str:
        """A new link's secret."""
        secret = secrets.token_urlsafe(32)
        self._open[digest(secret)] = person, now + LINK_SECONDS
        while len(self._open) > LINKS_MAX:
            self._open.popitem(last=False)
        return secret

    def look(self, secret: str, now: float) -> Person | None:
        """Whose link it is, without using it up; None if it is unknown, used or too old."""
        person, until = self._open.get(digest(secret), (None, 0.0))
        return person if now < until else None

    def take(self, secret: str, now: float) -> Person | None:
        """Whose link it is; from now on it is used up."""
        person = self.look(secret, now)
        self._open.pop(digest(secret), None)
        return person

    def end(self, name: str) -> int:
        """Ends the unused links of a person; how many there were."""
        gone = [key for key, (person, _) in self._open.items() if person.name == name]
        for key in gone:
            del self._open[key]
        return len(gone)


class Sessions:
    """Everybody who is signed in. ``seconds_max``: how long a session lasts, however busy it is."""

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._by_id: dict[bytes, Session] = {}
        self._all: OrderedDict[Session, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, person: Person, now: float, proven: float | None = None) -> tuple[Session, str]:
        """A new session and its id for the browser. Too many sessions end the oldest ones. ``proven``: when the person
        has shown who it is; now unless that is said."""
        own = [session for session in self._all if session.person.name == person.name]
        for session in own[: max(0, len(own) - PERSON_SESSIONS_MAX + 1)]:
            self.end(session)
        while len(self._all) >= SESSIONS_MAX:
            self.end(next(iter(self._all)))
        session = Session(person, now, now if proven is None else proven)
        self._all[session] = None
        return session, self._new_id(session, now)

    def find(self, id_: str, now: float) -> Session | None:
        """The session of an id that a browser sent; None if it is unknown or over."""
        key = digest(id_)
        session = self._by_id.get(key)
        if session is None:
            return None
        if now - session.begun > self._seconds_max or now - session.seen > IDLE_SECONDS:
            self.end(session)
            return None
        if now > session.ids[key]:
            del session.ids[key], self._by_id[key]
            return None
        session.seen = now
        return session

    def rotate(self, session: Session, now: float) -> str:
        """A new id if it is time for one, else ""."""
        if now - session.rotated < ROTATE_SECONDS:
            return ""
        session.rotated = now
        for key, until in list(session.ids.items()):
            if now > until:
                del session.ids[key], self._by_id[key]
            else:
                session.ids[key] = min(until, now + GRACE_SECONDS)
        return self._new_id(session, now)

    def end(self, session: Session) -> None:
        """Ends one session. Harmless if it has ended."""
        for key in session.ids:
            self._by_id.pop(key, None)
        self._all.pop(session, None)

    def end_of(self, name: str) -> int:
        """Ends every session of a person; how many there were."""
        gone = [session for session in self._all if session.person.name == name]
        for session in gone:
            self.end(session)
        return len(gone)

    def listing(self, now: float) -> list[dict[str, object]]:
        """Who is signed in, since when, and how long ago each was last seen."""
        return [{"name": session.person.name, "roles": list(session.person.roles),
                 "signedInSeconds": now - session.begun, "idleSeconds": now - session.seen}
                for session in self._all if now - session.seen <= IDLE_SECONDS
                and now - session.begun <= self._seconds_max]

    def _new_id(self, session: Session, now: float) -> str:
        id_ = secrets.token_urlsafe(32)
        session.ids[digest(id_)] = session.begun + self._seconds_max
        self._by_id[digest(id_)] = session
        return id_
