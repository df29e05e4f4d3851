"""Decides what an event of an API call counts for. A refused call had nothing done for it, so it is neither usage nor a
change. Pure."""

from __future__ import annotations

from apex_exec.ledger.reading import Event

REFUSED_CODES = frozenset((
    "permission_denied", "unknown_method", "invalid_params", "too_many_calls", "sql_syntax", "sql_forbidden",
    "sql_not_on_sqlite", "sql_parameters", "table_not_allowed", "column_not_allowed", "row_limit", "url_invalid",
    "host_not_allowed", "address_not_allowed", "component_not_allowed", "effect_limit", "storage_full",
    "audit_unavailable", "overloaded", "not_provided"))
"""Codes of API calls that were answered before anything was done for them (``workers.wire.API_CODES``)."""
DENIED_CODES = frozenset((
    "permission_denied", "sql_forbidden", "table_not_allowed", "column_not_allowed", "url_invalid", "host_not_allowed",
    "address_not_allowed", "component_not_allowed"))
"""Those of them which mean that the plugin asked for something it may not have, rather than asked wrongly."""


def denials(event: Event) -> int:
    """How many denied calls ``event`` is about: one, or its ``count`` if it stands for several."""
    codes = event.metadata.get("codes")
    if isinstance(codes, dict):  # the refusals of an invocation beyond those with an event of their own
        return sum(count for code, count in codes.items() if code in DENIED_CODES and isinstance(count, int))
    return int(event.event_type == "access.denied"
               or (event.result != "success" and event.metadata.get("code") in DENIED_CODES))


def made(event: Event) -> int:
    """How many API calls ``event``, which was not refused, is about: one, or the effects that share it."""
    effects = event.metadata.get("effects")
    return effects if isinstance(effects, int) and effects > 0 else 1


def was_refused(event: Event) -> bool:
    """Whether the API call that ``event`` is about was refused."""
    return event.result == "denied" or (
        event.result != "success" and event.metadata.get("code") in REFUSED_CODES)
