"""What a person may have done with a plugin, one row an act. The daemon carries it out, decides and records it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

REASON_CHARS_MAX = 500


class Wrong(Exception):
    """A form that cannot be sent on. ``str()`` says what to change."""


class Act(NamedTuple):
    """``operation`` with the arguments that ``args`` makes of the form; ``done`` says what has happened. ``fresh``: who
    does it has to have signed in a moment ago, since it cannot be undone."""

    operation: str
    args: Callable[[str, Mapping[str, str]], dict[str, Any]]
    done: Callable[[str, dict[str, Any]], str]
    fresh: bool = False


def reason_of(form: Mapping[str, str], empty: str) -> str:
    """The form's reason. Raises Wrong, with ``empty`` if there is none."""
    reason = form.get("reason", "").strip()
    if not reason:
        raise Wrong(empty)
    if len(reason) > REASON_CHARS_MAX:
        raise Wrong(f"The reason is longer than {REASON_CHARS_MAX} characters; shorten it.")
    return reason


def _plain(plugin: str, _: Mapping[str, str]) -> dict[str, Any]:
    return {"id": plugin}


def _for_user(plugin: str, form: Mapping[str, str]) -> dict[str, Any]:
    user = form.get("user", "").strip()
    return {"id": plugin, "user": user} if user else {"id": plugin}


def _with_reason(plugin: str, form: Mapping[str, str]) -> dict[str, Any]:
    return {"id": plugin, "reason": reason_of(
        form, "Say why: the reason is recorded, and hosts see it with every refused call.")}


def _by_name(plugin: str, form: Mapping[str, str]) -> dict[str, Any]:
    if form.get("sure", "") != plugin:
        raise Wrong(f"Type {plugin} to remove it: its versions and their approvals go with it.")
    return {"id": plugin}


def _back_to(plugin: str, form: Mapping[str, str]) -> dict[str, Any]:
    version = form.get("version", "").strip()
    return {"id": plugin, "version": version} if version else {"id": plugin}


def _digest(_: str, form: Mapping[str, str]) -> dict[str, Any]:
    return {"digest": form.get("digest", "").strip(),
            "reason": reason_of(form, "Say why: the reason is recorded, and hosts see it with every refused call.")}


def _whom(args: dict[str, Any]) -> str:
    return f" for user {args['user']}" if "user" in args else " for everybody"


def _version(args: dict[str, Any]) -> str:
    return f"version {args['version']}" if "version" in args else "the version before"


ACTS = {
    "enable": Act("plugin.enable", _for_user, lambda id_, args: f"{id_} is enabled{_whom(args)}."),
    "disable": Act("plugin.disable", _for_user, lambda id_, args: f"{id_} is disabled{_whom(args)}."),
    "quarantine": Act("plugin.quarantine", _with_reason,
                      lambda id_, args: f"{id_} is stopped: {args['reason']}"),
    "release": Act("plugin.release", _plain,
                   lambda id_, _: f"{id_} is released. It is disabled: enable it to serve it again."),
    "restart": Act("plugin.restart", _plain,
                   lambda id_, _: f"{id_} gets another worker; the old one answers what it has."),
    "reset": Act("breaker.reset", _plain, lambda id_, _: f"The breaker of {id_} is closed."),
    "rollback": Act("plugin.rollback", _back_to, lambda id_, args: f"{id_} went back to {_version(args)}."),
    "revoke": Act("plugin.revokeVersion", _digest,
                  lambda id_, args: f"A version of {id_} is revoked for good: {args['reason']}", fresh=True),
    "remove": Act("plugin.remove", _by_name, lambda id_, _: f"{id_} is removed with all its versions.", fresh=True),
}
"""By the last word of the form's address."""
