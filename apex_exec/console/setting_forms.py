"""Settings of a plugin as fields of a form, and what somebody has written there as values. Pure.

A field's kind follows the setting's JSON Schema. A value that was not touched is not sent, so that what holds for
everybody stays as it is when somebody saves one other field. That is so, too, of a value that a page or a browser shows
otherwise than it is: with escapes in place of control characters, or with other line ends. Of a secret nothing but
whether it is set is known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from apex_exec.console.acts import Wrong
from apex_exec.console.rendering import long, shown

LINE_CHARS_MAX = 120
"""A text that may be longer, or has line ends, gets a field of several lines."""
WHERE = {"user": "set for this user", "tenant": "set for this tenant", "everybody": "set for everybody",
         "default": "the default", "nothing": "not set"}


class Field(NamedTuple):
    """One setting as it is shown. ``kind``: secret, choice, number, text, lines or json; ``text`` is what the field has
    in it, ``choices`` pairs of a JSON value and its label."""

    name: str
    title: str
    kind: str
    text: str
    choices: list[tuple[str, str]]
    where: str
    is_set: bool
    hint: str
    problem: str


def field_of(setting: Mapping[str, Any]) -> Field:
    """The field of one row of ``plugin.settings.get``."""
    schema, value, name = setting["schema"], setting.get("value"), str(setting["name"])
    kind, choices, text = _kind(setting), [], ""
    if "value" in setting and kind != "secret":
        if isinstance(value, str) and kind in ("text", "lines"):
            text = _lines(value)
        else:
            text = _json(value, 2 if kind == "json" else None)
    if kind == "choice":
        options = schema["enum"] if "enum" in schema else [True, False]
        choices = [(_json(one), one if isinstance(one, str) else _json(one)) for one in options]
        if "value" not in setting:
            choices = [("", "not set"), *choices]
        elif (at := next((at for at, one in enumerate(options) if _are_equal(one, value)), None)) is not None:
            text = choices[at][0]  # 1 may be written as 1.0
        else:  # a browser would choose the first option in its place, and save that
            choices = [(text, f"{text} (the plugin no longer offers it)"), *choices]
    return Field(name, str(setting.get("title") or name), kind, text, choices,
                 WHERE.get(str(setting["source"]), ""), bool(setting["set"]), _hint(setting),
                 str(setting.get("problem", "")))


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False)


def _are_equal(one: Any, other: Any) -> bool:
    """Whether both are the same in JSON, where a boolean never equals a number."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _lines(text: str) -> str:
    """``text`` with the one line end that a browser leaves as it is, or what a browser sent with that of the others."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _kind(setting: Mapping[str, Any]) -> str:
    schema = setting["schema"]
    if setting["secret"]:
        return "secret"
    if "enum" in schema or schema.get("type") == "boolean":
        return "choice"
    if schema.get("type") in ("integer", "number"):
        return "number"
    if schema.get("type") != "string":
        return "json"
    value = setting.get("value")
    is_long = schema.get("maxLength", 0) > LINE_CHARS_MAX or (
        isinstance(value, str) and (len(value) > LINE_CHARS_MAX or "\n" in _lines(value)))
    return "lines" if is_long else "text"


def _hint(setting: Mapping[str, Any]) -> str:
    """What the schema says of the value, in words."""
    schema, said = setting["schema"], []
    if text := schema.get("description"):
        said.append(str(text))
    if fetch := setting.get("fetch"):
        said.append(f"goes into the header {fetch['header']} of requests to {', '.join(fetch['hosts'])}; the plugin "
                    "never has it")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None or high is not None:
        said.append(f"{low if low is not None else 'anything'} to {high if high is not None else 'anything'}")
    if most := schema.get("maxLength"):
        said.append(f"at most {most} characters")
    if _kind(setting) == "json":
        said.append(f"{schema.get('type', 'any value')}, as JSON")
    if "default" in setting and not setting["secret"]:
        said.append(f"default {json.dumps(setting['default'], ensure_ascii=False)}"[:120])
    text = "; ".join(said)
    return text[:1].upper() + text[1:]


def written(settings: list[dict[str, Any]], form: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values that a form changes, and the names that it takes back. Raises Wrong."""
    values: dict[str, Any] = {}
    names: list[str] = []
    for setting in settings:
        field = field_of(setting)
        if form.get(f"unset-{field.name}") == "1":
            names.append(field.name)
            continue
        raw = form.get(f"value-{field.name}")
        if raw is None or _lines(raw) in (field.text, shown(long(field.text))) or (field.kind == "choice" and not raw):
            continue
        values[field.name] = _value(field, _lines(raw), setting["schema"])
    return values, names


def _value(field: Field, raw: str, schema: Mapping[str, Any]) -> Any:
    if field.kind in ("secret", "text", "lines"):
        return raw
    if not raw.strip():
        raise Wrong(f"{field.title}: a value is missing; to have none, tick “take it back”.")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        example = {"number": "12.5", "json": '["one", "two"]'}.get(field.kind, "true")
        raise Wrong(f"{field.title}: this is not JSON; write it as in {example}.") from None
    if field.kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise Wrong(f"{field.title}: write a number.")
    if schema.get("type") == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
