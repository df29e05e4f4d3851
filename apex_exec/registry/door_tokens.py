"""Tokens of the HTTP door: who may call it without a JWT, as which user, and what.

Only the SHA-256 of a token is ever here. The one who makes a token keeps its secret: the command line makes it and
sends the digest, so that no daemon, log or record ever has it. The door asks for the whole list when it changes
(``listing``) and looks tokens up by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.common.names import UUID
from apex_exec.errors import Code, Refusal
from apex_exec.registry import tables as t
from apex_exec.registry.arguments import DoorTokenArgs, DoorTokensArgs, RevokeDoorTokenArgs
from apex_exec.registry.bundles.manifest import is_plugin_id
from apex_exec.registry.context import Context

SCOPES = ("invoke", "dispatch", "plugins", "audit:read")
"""What a token may be used for. ``act-as`` is apart: it says for whom."""
TOKENS_MAX = 2_000
"""Tokens that count at one time: the door keeps them all."""
NAMES_MAX = 64
"""Plugins or hooks of one token."""
DAY_NS = 86_400 * 1_000_000_000
_DIGEST = re.compile("[0-9a-f]{64}")
_HOOK = re.compile("[A-Za-z][A-Za-z0-9]{0,63}")


class TokenRow(msgspec.Struct, frozen=True):
    """One token. ``user_id`` is the user it calls as ("": only as those that it names, by ``act_as``); an empty list of
    plugins or hooks means all. ``revoked_ns`` is 0 while it counts."""

    id: str
    name: str
    digest: str
    user_id: str
    act_as: bool
    plugins: str
    hooks: str
    scopes: str
    requests_per_minute: int
    created_ns: int
    expires_ns: int
    uid: int
    revoked_ns: int
    reason: str


def create(ctx: Context, args: DoorTokenArgs) -> dict[str, Any]:
    """Registers a token by its digest. Raises Refusal."""
    user = (args.user or "").lower()
    _check(args, user)
    now_ns = ctx.now_ns()
    row = TokenRow(
        id=args.digest[:12], name=args.name, digest=args.digest, user_id=user, act_as=args.act_as,
        plugins=_listed(args.plugins), hooks=_listed(args.hooks), scopes=_listed(args.scopes),
        requests_per_minute=args.requests_per_minute, created_ns=now_ns, expires_ns=now_ns + args.days * DAY_NS,
        uid=ctx.uid, revoked_ns=0, reason="")

    def work(db: sa.Connection) -> None:
        if len(_rows(db, now_ns)) >= TOKENS_MAX:
            raise Refusal("tokens_full", f"there are already {TOKENS_MAX} valid tokens, which is the limit",
                          code=Code.CONFLICT, hint="revoke those that nobody uses: `apex-exec door token list`")
        if db.execute(sa.select(t.door_tokens.c.id).where(t.door_tokens.c.id == row.id)).first() is not None:
            raise Refusal("token_exists", "this token is registered already", code=Code.CONFLICT,
                          hint="make another one")
        db.execute(sa.insert(t.door_tokens).values(msgspec.structs.asdict(row)))

    ctx.store.transact(work)
    return _described(row, now_ns)


def revoke(ctx: Context, args: RevokeDoorTokenArgs) -> dict[str, Any]:
    """Ends every token of a name, or the one with an id, for good. Raises Refusal if there is none."""
    now_ns = ctx.now_ns()

    def work(db: sa.Connection) -> list[str]:
        c = t.door_tokens.c
        named = sa.or_(c.name == args.name, c.id == args.name)
        found = [id_ for (id_,) in db.execute(sa.select(c.id).where(named, c.revoked_ns == 0))]
        if not found and db.execute(sa.select(c.id).where(named)).first() is None:
            raise Refusal("token_not_found", f"there is no token {args.name[:100]!a}", code=Code.NOT_FOUND,
                          hint="`apex-exec door token list` shows names and ids")
        db.execute(sa.update(t.door_tokens).where(c.id.in_(found)).values(revoked_ns=now_ns, reason=args.reason))
        return found

    return {"name": args.name, "revoked": ctx.store.transact(work)}


def listing(ctx: Context, args: DoorTokensArgs) -> dict[str, Any]:
    """``tokens`` with their digests, those that no longer count only if ``all`` is set. With the ``revision`` of an
    earlier answer the list is left out (null) while it is the same."""
    now_ns = ctx.now_ns()
    rows = ctx.store.transact(lambda db: _rows(db, now_ns, all_=args.all))
    revision = f"{len(rows)}.{max((max(row.created_ns, row.revoked_ns) for row in rows), default=0)}"
    same = args.revision == revision
    return {"revision": revision, "tokens": None if same else [_described(row, now_ns) for row in rows]}


def _rows(db: sa.Connection, now_ns: int, *, all_: bool = False) -> list[TokenRow]:
    c = t.door_tokens.c
    query = sa.select(t.door_tokens).order_by(c.created_ns, c.id)
    if not all_:
        query = query.where(c.revoked_ns == 0, c.expires_ns > now_ns)
    return [TokenRow(*row) for row in db.execute(query)]


def _described(row: TokenRow, now_ns: int) -> dict[str, Any]:
    state = "revoked" if row.revoked_ns else "expired" if row.expires_ns <= now_ns else "active"
    return {"id": row.id, "name": row.name, "digest": row.digest, "user": row.user_id, "actAs": row.act_as,
            "plugins": json.loads(row.plugins), "hooks": json.loads(row.hooks), "scopes": json.loads(row.scopes),
            "requestsPerMinute": row.requests_per_minute, "createdNs": row.created_ns, "expiresNs": row.expires_ns,
            "state": state, "reason": row.reason}


def _check(args: DoorTokenArgs, user: str) -> None:
    if _DIGEST.fullmatch(args.digest) is None:
        raise _invalid("bad_digest", "the digest is not a SHA-256 in lower-case hexadecimal",
                       "use `apex-exec door token new`, which makes the token and its digest")
    if not args.name.strip() or not args.name.isprintable() or len(args.name) > 100:
        raise _invalid("bad_name", "a token's name has 1 to 100 printable characters", "name who is to use it")
    if user and UUID.fullmatch(user) is None:
        raise _invalid("bad_user", f"{user[:50]!a} is not a UUID", "8-4-4-4-12 hexadecimal digits")
    if not user and not args.act_as and set(args.scopes) & {"invoke", "dispatch"}:
        raise _invalid("no_user", "a token that calls hooks acts as one user, or as any", "name the user, or act-as")
    if not args.scopes or not set(args.scopes) <= set(SCOPES):
        raise _invalid("bad_scope", "a token needs at least one scope, and only scopes that exist",
                       f"the scopes are {', '.join(SCOPES)}")
    if len(args.plugins) > NAMES_MAX or not all(map(is_plugin_id, args.plugins)):
        raise _invalid("bad_plugin", f"a plugin must be given by its id, and at most {NAMES_MAX} of them",
                       "see `apex-exec plugin list`")
    if len(args.hooks) > NAMES_MAX or not all(map(_HOOK.fullmatch, args.hooks)):
        raise _invalid("bad_hook", f"a hook must be given by its name, such as onDataFetch, and at most {NAMES_MAX} "
                                   "of them",
                       "see `apex-exec schema`")


def _invalid(reason: str, message: str, hint: str) -> Refusal:
    return Refusal(reason, message, code=Code.INVALID_INPUT, hint=hint)


def _listed(names: Sequence[str]) -> str:
    return json.dumps(sorted(set(names)))
