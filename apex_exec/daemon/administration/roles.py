"""The callers behind a connection of the admin endpoint, and what ``role_table`` lets each of them do.

What decides is what the kernel says of the connection (SO_PEERCRED, SO_PEERGROUPS) and ``admin.roles``; a message alone
gives nobody a right.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from apex_exec.config import ADMIN, DELEGATE, ROLES, Settings
from apex_exec.daemon.administration.role_table import TAKES_UPLOADS, role_needed
from apex_exec.daemon.runtime_folder import group_id
from apex_exec.errors import Code, ConfigError, WireError
from apex_exec.registry.arguments import wants_enabled
from apex_exec.wire import messages as msg

_HANDED_OUT = {DELEGATE: frozenset(ROLES) - {ADMIN}, **{f"{DELEGATE}:{role}": frozenset((role,)) for role in ROLES}}
"""What a peer may hand out to those for whom it asks: ``delegate`` all but ``admin``, which is allowed by name."""
ACTOR_NAME_CHARS_MAX = 200
NAMES = ("submitter", "reviewer", "publisher", "responder", "actor")
"""Arguments that say who does it. Who is asked for does it under his own name: who submits as one and reviews as
another would be two people."""


class Caller(Struct, frozen=True):
    """Who asks for an operation. ``uid`` and ``gid`` are the peer's; ``roles`` decide: the peer's own, or those of the
    ``actor`` it asks for ("": it asks for itself)."""

    uid: int
    gid: int
    roles: frozenset[str]
    actor: str = ""
    said: tuple[str, ...] = ()
    """The actor's roles as the peer named them."""

    def may(self, operation: str) -> bool:
        """Whether the table gives this caller ``operation``."""
        if operation == "plugin.upload":
            return any(map(self.may, TAKES_UPLOADS))
        needed = role_needed(operation)
        return ADMIN in self.roles or needed in self.roles or (needed == "viewer" and bool(self.roles))

    def __str__(self) -> str:
        who = f"uid {self.uid} (gid {self.gid})"
        return f"{self.actor}, for whom {who} asks," if self.actor else who

    def on_record(self) -> dict[str, Any]:
        """What an audit record says of the caller."""
        found: dict[str, Any] = {"uid": self.uid, "gid": self.gid}
        if self.actor:
            found["actor"] = {"name": self.actor, "roles": list(self.said)}
        return found


class Access:
    """Which roles a peer has, by ``admin.roles``. Raises ConfigError if it names an unknown user or group."""

    def __init__(self, roles: Mapping[str, Iterable[str]], own_uid: int) -> None:
        always = frozenset((ADMIN,))
        self._of_uid: dict[int, frozenset[str]] = {}
        self._of_gid: dict[int, frozenset[str]] = {}
        for peer, named in roles.items():
            kind, _, name = peer.partition(":")
            table, number = ((self._of_uid, _uid(name)) if kind == "uid" else
                             (self._of_gid, group_id(name, "admin.roles")))
            table[number] = table.get(number, frozenset()) | frozenset(named)
        for uid in (0, own_uid):  # either could change the configuration, the ledger and the daemon itself
            self._of_uid[uid] = self._of_uid.get(uid, frozenset()) | always

    def caller(self, uid: int, gid: int, groups: Iterable[int], actor: msg.Actor | None) -> Caller:
        """The caller behind a message of this peer. Raises WireError if the peer may not act for ``actor``."""
        held = self._of_uid.get(uid, frozenset()).union(*(self._of_gid.get(group, ()) for group in (gid, *groups)))
        own = held & frozenset(ROLES)
        if actor is None:
            return Caller(uid, gid, own)
        said = _checked(actor)
        handed_out = frozenset(ROLES) if ADMIN in own else frozenset().union(
            *(_HANDED_OUT[role] for role in held if role in _HANDED_OUT))
        if not handed_out:
            raise Forbidden("no_delegate", f"uid {uid} (gid {gid}) may not act for somebody else, because it does not "
                            f"have the role {DELEGATE} (admin.roles assigns it)",
                            {"roles": sorted(held)}, Caller(uid, gid, own, actor.name, said))
        return Caller(uid, gid, frozenset(said) & handed_out, actor.name, said)

    def check(self, caller: Caller, operation: str, args: Mapping[str, Any]) -> None:
        """Raises Forbidden if ``caller`` may not do this."""
        needed, roles = role_needed(operation), sorted(caller.roles)
        details = {"operation": operation, "needed": needed, "roles": roles}
        if not caller.may(operation):
            if needed in caller.said:
                raise Forbidden("not_delegable", f"{operation} needs the role {needed}, which uid {caller.uid} may not "
                                f"hand out to {caller.actor}; `{DELEGATE}:{needed}` in admin.roles would allow it",
                                details, caller)
            raise Forbidden("role_missing", f"{operation} needs the role {needed}; {caller} has {_listed(roles)} "
                            "(admin.roles says who has which)", details, caller)
        if wants_enabled(args.get("manifest")) and not caller.may("plugin.enable"):
            raise Forbidden("enabling_needs_operator", f"`enabled: true` enables the plugin, which needs the role "
                            f"{role_needed('plugin.enable')}; {caller} has {_listed(roles)}: leave it out",
                            {**details, "needed": role_needed("plugin.enable")}, caller)
        if args.get("path") is not None and ADMIN not in caller.roles:
            raise Forbidden("path_needs_admin", "a path on the daemon's machine is read with the daemon's rights, so "
                            f"naming one needs the role {ADMIN}; {caller} has {_listed(roles)}: send the bundle's "
                            "bytes instead", {**details, "needed": ADMIN}, caller)


def check_peers(settings: Settings) -> None:
    """Raises ConfigError if the configuration names a user or group that this machine does not have."""
    for key, name in (("host.socket_group", settings.host.socket_group),
                      ("admin.socket_group", settings.admin.socket_group)):
        group_id(name, key)
    Access(settings.admin.roles, os.geteuid())


def under_own_name(caller: Caller, args: Mapping[str, Any] | None, known: Iterable[str]) -> dict[str, Any]:
    """``args`` of an operation whose arguments are ``known``, with the actor's name if the operation asks who does it.
    Raises Forbidden if the caller gave another name."""
    given = dict(args or {})
    if caller.actor:
        for key in NAMES:
            if key not in known:
                continue
            if given.get(key) not in (None, "", caller.actor):
                raise Forbidden("another_name", f"{caller} acts under the name {caller.actor}, and `{key}` names "
                                                "somebody "
                                "else; leave it out, or give that name", {"roles": sorted(caller.roles)}, caller)
            given[key] = caller.actor
    return given


class Forbidden(WireError):
    """What a caller may not do. ``caller`` is who asked."""

    def __init__(self, reason: str, message: str, details: dict[str, Any], caller: Caller) -> None:
        super().__init__(Code.FORBIDDEN, message, {"reason": reason, **details})
        self.caller = caller


def _listed(roles: list[str]) -> str:
    return f"the role{'s' if len(roles) > 1 else ''} {', '.join(roles)}" if roles else "no role"


def _checked(actor: msg.Actor) -> tuple[str, ...]:
    """The actor's roles. Raises WireError for a name or a role that cannot be."""
    if not actor.name.isprintable() or not actor.name.strip() or len(actor.name) > ACTOR_NAME_CHARS_MAX:
        raise WireError(Code.INVALID_INPUT, f"an actor's name must have 1 to {ACTOR_NAME_CHARS_MAX} printable "
                                            "characters",
                        {"path": "$.actor.name"})
    for index, role in enumerate(actor.roles):
        if role not in ROLES:
            raise WireError(Code.INVALID_INPUT, f"{role[:40]!r} is not a role of an actor; the roles are "
                                                f"{', '.join(ROLES)}",
                            {"path": f"$.actor.roles[{index}]"})
    return tuple(dict.fromkeys(actor.roles))


def _uid(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"admin.roles: this machine has no user {name!r}; write the name or the number of a user "
                          "that exists") from None

