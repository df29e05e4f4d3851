"""Hooks that an operator declares: ``[hooks.onInvoiceCreated]`` of the configuration, checked and made into a ``Hook``.

Only the configuration declares hooks. A plugin or a host names one, and whether it exists is decided by the table that
the supervisor made at its start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from apex_exec.catalogue.hooks import BUILT_IN, HOOKS, MODES, Hook, declare
from apex_exec.catalogue.json_schema import compiled, sample

DECLARED_MAX = 100
NAME = re.compile(r"on[A-Z][A-Za-z0-9]{0,62}")


def check_names(names: list[str]) -> None:
    """Raises ValueError if there are too many, or one that a hook cannot have."""
    if len(names) > DECLARED_MAX:
        raise ValueError(f"{len(names)} hooks are declared, and the limit is {DECLARED_MAX}; remove some")
    for name in names:
        if NAME.fullmatch(name) is None:
            raise ValueError(f"{name[:80]!r} is not a valid name of a hook; write `on`, a capital letter and up to 62 "
                             "letters and digits, as in onInvoiceCreated")
        if any(name == hook.name for hook in BUILT_IN):
            raise ValueError(f"{name} is a built-in hook, so it cannot be declared again; choose another name")


def hook_of(name: str, section: Mapping[str, Any]) -> Hook:
    """The hook that a section of the configuration declares: ``mode``, ``params``, ``result``, ``void``, ``default``.
    Raises ValueError with the key that is wrong."""
    mode = section["mode"]
    params = _named("params", compiled, section["params"], f"{name}Params")
    if section["params"].get("type") != "object":
        raise ValueError('params: the payload of a call is always a map, so write {"type": "object", …}')
    user = section["params"].get("properties", {}).get("userId", {"type": "string"})
    if not isinstance(user, dict) or user.get("type") != "string":
        raise ValueError('params.properties.userId: this property is the id of the caller; write {"type": "string"}, '
                         'or '
                         'give the property another name')
    void, schema, default = section.get("void", False), section.get("result"), section.get("default")
    if void and (schema is not None or default is not None):
        raise ValueError("void: a void hook returns nothing; remove result and default, or void")
    if not void and schema is None:
        raise ValueError("result: write the JSON Schema of what plugins return, or void = true if they return nothing")
    result = None if void else _named("result", compiled, schema, f"{name}Result")
    carries = _carried(section["params"], schema or {}, void) if mode == "chain" else {}
    if default is not None:
        if mode == "all":
            raise ValueError('default: in mode "all" the reply is the list of all results; remove default')
        try:
            msgspec.convert(default, result)
        except msgspec.ValidationError as error:
            raise ValueError(f"default: the value does not match the schema in result: {error}") from None
    trial = _named("params", sample, section["params"])
    _fits("params", trial, params)
    trial_result = None if void else _named("result", sample, schema)
    return Hook(name, doc=MODES[mode], mode=mode, params=params, result=result, sample=trial, carries=carries,
                sample_result=trial_result, default=default, declared=dict(section))


def _named(key: str, make: Callable[..., Any], *given: Any) -> Any:
    """Returns ``make(*given)``; a ValueError of it gets the name of the key."""
    try:
        return make(*given)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _fits(key: str, value: Any, kind: Any) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{key}: no sample value for a trial call could be made from this schema: {error}") from None


def _carried(params: dict[str, Any], result: Any, void: bool) -> dict[str, str]:
    """What each plugin of a chain leaves to the next: the properties that params and result share."""
    ours = params.get("properties", {})
    theirs = result.get("properties", {}) if isinstance(result, dict) else {}
    shared = [name for name in ours if name in theirs and name != "userId"]
    if void or not shared:
        raise ValueError("result: in a chain, each plugin gets what the one before returned; give params and result "
                         "at least one property of the same name")
    for name in shared:
        if ours[name] != theirs[name]:
            raise ValueError(f"result.properties.{name}: the next plugin of the chain gets this value, so "
                             "give it the same schema in params and in result")
    return {name: name for name in shared}


def declare_all(sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Puts the configuration's hooks into the table of this process. Raises ValueError as ``hook_of`` does."""
    declare(hook_of(name, section) for name, section in sections.items())


def sections() -> dict[str, dict[str, Any]]:
    """What was declared in this process, for another one that is to know the same."""
    return {hook.name: hook.declared for hook in HOOKS.values() if hook.declared is not None}
