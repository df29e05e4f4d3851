"""The part of JSON Schema in which operators declare hooks, compiled to types that msgspec checks in C.

A schema is checked here once, at the start. What it may say: ``type`` (one or several), ``properties``, ``required``,
``additionalProperties``, ``items``, ``minItems``, ``maxItems``, ``minProperties``, ``maxProperties``, ``minLength``,
``maxLength``, ``minimum``, ``maximum``, ``exclusiveMinimum``, ``exclusiveMaximum``, ``multipleOf``, ``enum``,
``const``, and ``title`` and ``description``, which mean nothing here. Anything else is refused by name: a keyword that
we passed over would be a promise that nobody keeps. ``pattern`` is refused because a plugin could choose a text on
which a regular expression takes for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

SCHEMA_BYTES_MAX = 65_536
"""Of one schema, as JSON."""
DEPTH_MAX = 16
PROPERTIES_MAX = 200
"""Of one object."""
ENUM_MAX = 200
INT_MAX = 2**63 - 1
SAMPLE_SIZE_MAX = 65_536
"""How many values, and characters in texts and keys, a sample has altogether at most. It bounds ``minLength``,
``minItems`` and the products of nested ``minItems``, which a short schema can make as large as it likes."""

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]{0,63}")
_NUMBERS = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt", "multipleOf":
            "multiple_of"}
_SIZES: dict[str, dict[str, str]] = {
    "string": {"minLength": "min_length", "maxLength": "max_length"},
    "array": {"minItems": "min_length", "maxItems": "max_length"},
    "object": {"minProperties": "min_length", "maxProperties": "max_length"},
}
_KEYWORDS: dict[str, frozenset[str]] = {
    "string": frozenset(_SIZES["string"]), "integer": frozenset(_NUMBERS), "number": frozenset(_NUMBERS),
    "boolean": frozenset(), "null": frozenset(), "array": frozenset(("items", *_SIZES["array"])),
    "object": frozenset(("properties", "required", "additionalProperties", *_SIZES["object"])),
}
_ANYWHERE = frozenset(("type", "enum", "const", "title", "description"))
_SUPPORTED = sorted(_ANYWHERE.union(*_KEYWORDS.values()))
_KINDS: dict[str, Any] = {"boolean": bool, "null": type(None)}
_TYPESCRIPT = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def compiled(schema: Any, name: str) -> Any:
    """The type that ``schema`` means, for ``msgspec.convert`` and its decoders; its structs are named ``name``.

    Raises ValueError, with the place in the schema, for what is not supported or makes no sense.
    """
    try:
        size = len(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"$: the schema is not valid JSON: {error}") from None
    if size > SCHEMA_BYTES_MAX:
        raise ValueError(f"$: the schema has {size} bytes; the limit is {SCHEMA_BYTES_MAX}")
    made = _type(schema, "$", name, 1)
    try:
        msgspec.msgpack.Decoder(made)
    except TypeError as error:  # a union that msgspec cannot tell apart
        raise ValueError(f"$: {error}") from None
    return made


def _type(schema: Any, path: str, name: str, depth: int) -> Any:
    if schema is True or schema == {}:
        return Any
    if not isinstance(schema, dict):
        raise ValueError(f"{path}: this must be a schema, which is a map such as {{\"type\": \"string\"}}")
    if depth > DEPTH_MAX:
        raise ValueError(f"{path}: the schema is nested more than {DEPTH_MAX} levels deep; flatten it")
    if "enum" in schema or "const" in schema:
        return _values(schema, path)
    types = _types(schema, path)
    allowed = _ANYWHERE.union(*(_KEYWORDS[one] for one in types))
    for keyword in schema:
        if keyword not in allowed:
            raise ValueError(f"{path}: {_why_not(str(keyword), types)}")
    if not types:
        return Any
    if "integer" in types and "number" in types:
        raise ValueError(f"{path}.type: `number` includes integers; write only one of `integer` and `number`")
    made = [_one(kind, schema, path, name, depth) for kind in types]
    union = made[0]
    for kind in made[1:]:
        union = union | kind
    return union


def _types(schema: dict[str, Any], path: str) -> list[str]:
    given = schema.get("type", [])
    types = [given] if isinstance(given, str) else given
    if not isinstance(types, list) or not all(isinstance(one, str) and one in _KEYWORDS for one in types) or (
            len(set(types)) != len(types)):
        raise ValueError(f"{path}.type: this must be one of {', '.join(_KEYWORDS)}, or a list of several of them")
    if not types and "type" in schema:
        raise ValueError(f"{path}.type: the list is empty, so no value could ever match; name at least one type")
    return types


def _why_not(keyword: str, types: list[str]) -> str:
    if keyword == "pattern":
        return ("pattern is not supported, since there are texts on which a regular expression takes for ever; use "
                "enum, minLength or maxLength")
    if keyword in _SUPPORTED:
        return f"{keyword} says nothing about {' or '.join(types)}" if types else f"{keyword} needs a type beside it"
    return f"{keyword[:60]!r} is not supported; there are {', '.join(_SUPPORTED)}"


def _values(schema: dict[str, Any], path: str) -> Any:
    """A type of the values that ``enum`` or ``const`` names."""
    for keyword in schema:
        if keyword not in _ANYWHERE:
            raise ValueError(f"{path}: {str(keyword)[:60]} has no effect beside enum or const; remove it")
    if "enum" in schema and "const" in schema:
        raise ValueError(f"{path}: enum and const exclude each other; remove one of them")
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    if not isinstance(values, list) or not 1 <= len(values) <= ENUM_MAX:
        raise ValueError(f"{path}.enum: this must be a list of 1 to {ENUM_MAX} values")
    for value in values:
        if not (value is None or type(value) is str or (type(value) is int and -INT_MAX <= value <= INT_MAX)):
            raise ValueError(f"{path}: a value of enum or const must be a string, an integer or null")
    types = _types(schema, path)
    kinds = {str: ("string",), int: ("integer", "number"), type(None): ("null",)}
    if types and not all(set(kinds[type(value)]) & set(types) for value in values):
        raise ValueError(f"{path}: a value of enum or const does not have the type that `type` names")
    return Literal[tuple(values)]


def _one(kind: str, schema: dict[str, Any], path: str, name: str, depth: int) -> Any:
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in ("integer", "number"):
        return _number(kind, schema, path)
    bounds = _sizes(kind, schema, path)
    if kind == "string":
        return Annotated[str, bounds]
    if kind == "array":
        items = _type(schema.get("items", {}), f"{path}.items", name, depth + 1)
        return Annotated[list[items], bounds]  # type: ignore[valid-type]  # a type that is made here
    return _object(schema, path, name, depth, bounds)


def _sizes(kind: str, schema: dict[str, Any], path: str) -> Meta:
    given = {ours: schema[theirs] for theirs, ours in _SIZES[kind].items() if theirs in schema}
    for value in given.values():
        if type(value) is not int or not 0 <= value <= INT_MAX:
            raise ValueError(f"{path}: {', '.join(_SIZES[kind])} must be integers, 0 or greater")
    return Meta(**given)


def _number(kind: str, schema: dict[str, Any], path: str) -> Any:
    given: dict[str, Any] = {}
    for theirs, ours in _NUMBERS.items():
        if theirs not in schema:
            continue
        value = schema[theirs]
        if type(value) not in (int, float) or not -INT_MAX <= value <= INT_MAX:
            raise ValueError(f"{path}.{theirs}: this must be a number of at most 63 bits")
        if kind == "integer" and value != int(value):
            raise ValueError(f"{path}.{theirs}: this must be an integer, because `type` is `integer`")
        if theirs == "multipleOf" and value <= 0:
            raise ValueError(f"{path}.multipleOf: this must be greater than 0")
        given[ours] = int(value) if kind == "integer" else value
    if {"ge", "gt"} <= set(given) or {"le", "lt"} <= set(given):
        raise ValueError(f"{path}: a bound is given twice; write either the inclusive or the exclusive one")
    number: Any = int if kind == "integer" else float
    return Annotated[number, Meta(**given)]


def _object(schema: dict[str, Any], path: str, name: str, depth: int, bounds: Meta) -> Any:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    more = schema.get("additionalProperties", True)
    if not isinstance(properties, dict) or len(properties) > PROPERTIES_MAX:
        raise ValueError(f"{path}.properties: this must be a map from names to schemas, with at most {PROPERTIES_MAX} "
                         "entries")
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        raise ValueError(f"{path}.required: this must be a list of names of properties")
    if unknown := [key for key in required if key not in properties]:
        raise ValueError(f"{path}.required: {unknown[0][:60]!r} is required and not declared; add it to properties")
    if not properties:
        if more is False:
            return msgspec.defstruct(name, [], forbid_unknown_fields=True)
        inner = _type(more, f"{path}.additionalProperties", name, depth + 1)
        return Annotated[dict[str, inner], bounds]  # type: ignore[valid-type]  # a type that is made here
    if type(more) is not bool:
        raise ValueError(f"{path}.additionalProperties: with properties, this must be true or false")
    if any(key in schema for key in _SIZES["object"]):
        raise ValueError(f"{path}: {' and '.join(_SIZES['object'])} cannot be combined with properties; remove them")
    first, last = [], []
    renamed = {}
    for number, (key, inner) in enumerate(properties.items()):
        if _NAME.fullmatch(key) is None:
            raise ValueError(f"{path}.properties: {key[:60]!r} is not a valid name: use up to 64 letters, digits, _, "
                             "$ and -")
        field = "user_id" if key == "userId" else f"field_{number}"
        renamed[field] = key
        kind = _type(inner, f"{path}.properties.{key}", name, depth + 1)
        if key in required:
            first.append((field, kind))
        else:
            last.append((field, kind if kind is Any else kind | UnsetType, UNSET))
    return msgspec.defstruct(name, [*first, *last], rename=renamed, forbid_unknown_fields=not more, kw_only=True)


def sample(schema: Any) -> Any:
    """A small value that fits ``schema``, which has been ``compiled``; a number may miss ``multipleOf``.

    Raises ValueError if the value would be larger than SAMPLE_SIZE_MAX.
    """
    return _sample(schema, _Room())


class _Room:
    """How much larger the sample that is being made may become."""

    def __init__(self) -> None:
        self._left = SAMPLE_SIZE_MAX

    def take(self, size: int) -> None:
        """Reserves ``size`` values and characters of the sample. Raises ValueError if they would exceed the bound."""
        self._left -= size
        if self._left < 0:
            raise ValueError(f"$: the smallest matching value has more than {SAMPLE_SIZE_MAX} values and "
                             "characters, which is too large for a trial call; lower minLength and minItems")


def _sample(schema: Any, room: _Room) -> Any:
    room.take(1)
    if not isinstance(schema, dict):
        return None
    if "const" in schema or "enum" in schema:
        value = schema["const"] if "const" in schema else schema["enum"][0]
        room.take(len(value) if isinstance(value, str) else 0)
        return value
    types = schema.get("type", "null")
    kind = types if isinstance(types, str) else types[0]
    if kind == "object":
        required = schema.get("required", ())
        room.take(sum(map(len, required)))
        return {key: _sample(schema["properties"][key], room) for key in required}
    if kind == "array":
        return [_sample(schema.get("items", {}), room) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        text, length_min = "trial"[: schema.get("maxLength", 5)], schema.get("minLength", 0)
        room.take(max(len(text), length_min))
        return text.ljust(length_min, "x")
    if kind in ("integer", "number"):
        return _number_within(schema)
    return False if kind == "boolean" else None


def _number_within(schema: dict[str, Any]) -> Any:
    low = schema.get("minimum", schema["exclusiveMinimum"] + 1 if "exclusiveMinimum" in schema else 0)
    high = schema.get("maximum", schema["exclusiveMaximum"] - 1 if "exclusiveMaximum" in schema else max(low, 0))
    return low if low > 0 else min(high, 0)


def typescript(schema: Any, definitions: dict[str, Any], *, named: Iterable[str] = (), indent: bool = False) -> str:
    """``schema`` as a TypeScript type. ``definitions`` is what its ``$ref`` lead to; those in ``named`` are written by
    their name. ``indent``: one property a line."""
    if not isinstance(schema, dict) or not schema:
        return "unknown"
    if "$ref" in schema:
        target = str(schema["$ref"]).rpartition("/")[2]
        return target if target in named else typescript(definitions[target], definitions, named=named, indent=indent)
    if "const" in schema or "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    types = schema.get("type", [])
    if isinstance(types, list):
        return " | ".join(typescript({**schema, "type": one}, definitions, named=named) for one in types) or "unknown"
    if types == "array":
        inner = typescript(schema.get("items", {}), definitions, named=named)
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if types != "object":
        return _TYPESCRIPT[types]
    properties = schema.get("properties", {})
    if not properties:
        more = schema.get("additionalProperties", {})
        inner = typescript(more, definitions, named=named) if more is not False else "never"
        return f"Record<string, {inner}>"
    parts = [f"{_key(key)}{'' if key in schema.get('required', ()) else '?'}: "
             f"{typescript(inner, definitions, named=named)}" for key, inner in properties.items()]
    return "{\n" + "".join(f"  {part};\n" for part in parts) + "}" if indent else f"{{ {'; '.join(parts)} }}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", key) else json.dumps(key)
