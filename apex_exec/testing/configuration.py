"""The configuration of a daemon under test: as a TOML file, as flags, and safe from the caller's own environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apex_exec.config import ENV_PREFIX


def to_toml(config: Mapping[str, Any]) -> str:
    """``{dotted key: value}`` as TOML. A mapping below a key becomes an inline table."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in config.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def to_flags(config: Mapping[str, Any]) -> list[str]:
    """The same as ``--set`` flags of ``apex-exec serve``, which win over a file."""
    flags = []
    for key, value in config.items():
        text = json.dumps(value) if isinstance(value, bool | dict | list) else str(value)
        flags += ["--set", f"{key}={text}"]
    return flags


def without_overrides(environment: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """``environment`` without the variables that would win over a key of ``config``."""
    names = {ENV_PREFIX + key.upper().replace(".", "__") for key in config}
    return {name: value for name, value in environment.items() if name not in names}
