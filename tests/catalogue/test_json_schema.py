"""JSON Schema in a configuration: what is not supported, or makes no sense, is said at the start, with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.catalogue.declared import DECLARED_MAX
from apex_exec.catalogue.json_schema import (
    DEPTH_MAX,
    SAMPLE_SIZE_MAX,
    SCHEMA_BYTES_MAX,
    compiled,
    sample,
    typescript,
)
from apex_exec.config import load_settings
from apex_exec.errors import ConfigError


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(("schema", "told"), [
    ({"type": "string", "pattern": "(a+)+$"}, "$: pattern is not supported"),
    ({"oneOf": []}, "$: 'oneOf' is not supported; there are additionalProperties"),
    ({"$ref": "#/x"}, "$: '$ref' is not supported"),
    ({"type": "object", "properties": {"a": {"format": "date"}}}, "$.properties.a: 'format' is not supported"),
    ({"type": "text"}, "$.type: this must be one of string"), ({"type": []}, "$.type: the list is empty"),
    ({"type": ["integer", "number"]}, "$.type: `number` includes integers"),
    ({"maximum": 3}, "$: maximum needs a type beside it"),
    ({"type": "string", "maximum": 3}, "$: maximum says nothing about string"),
    ({"type": "array", "items": {"type": "integer", "minimum": 2**64}}, "$.items.minimum: this must be a number of at "
                                                                        "most"),
    ({"type": "integer", "minimum": 0.5}, "$.minimum: this must be an integer"),
    ({"type": "number", "multipleOf": 0}, "$.multipleOf: this must be greater than 0"),
    ({"type": "number", "minimum": 1, "exclusiveMinimum": 2}, "$: a bound is given twice"),
    ({"type": "string", "minLength": -1}, "$: minLength, maxLength must be integers"),
    ({"enum": []}, "$.enum: this must be a list of 1 to"), ({"enum": [1.5]}, "$: a value of enum or const must be"),
    ({"enum": ["a"], "type": "integer"}, "$: a value of enum or const does not have the type"),
    ({"type": "object", "required": ["a"]}, "$.required: 'a' is required and not declared"),
    ({"type": "object", "properties": {"a b": {}}}, "$.properties: 'a b' is not a valid name"),
    ({"type": "object", "properties": {"a": {}}, "additionalProperties": {}}, "$.additionalProperties: with "
                                                                              "properties"),
    ({"type": "object", "properties": {"a": {}}, "maxProperties": 1}, "$: minProperties and maxProperties cannot be"),
    (3, "$: this must be a schema"), (deep(DEPTH_MAX + 1), "the schema is nested more than"),
    ({"description": "x" * SCHEMA_BYTES_MAX}, "bytes; the limit is"),
])
def test_what_a_schema_cannot_say_is_named_with_its_place(schema: Any, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        compiled(schema, "Tried")
    assert told in str(caught.value)


WHOLE: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["id", "kind", "lines", "rate", "on"],
    "properties": {
        "id": {"type": "string", "minLength": 8, "maxLength": 8}, "kind": {"enum": ["a", "b", 3, None]},
        "lines": {"type": "array", "minItems": 1, "maxItems": 2, "items": {
            "type": "object", "properties": {"n": {"type": "integer", "exclusiveMinimum": 4, "maximum": 9}},
            "required": ["n"]}},
        "rate": {"type": ["number", "null"], "minimum": -2, "maximum": -1}, "on": {"type": "boolean"},
        "tags": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1},
        "any-thing": {}, "one": {"const": 1}}}


def test_a_schema_is_checked_to_the_letter_and_its_sample_fits() -> None:
    kind = compiled(WHOLE, "Whole")
    good = sample(WHOLE)
    assert good == {"id": "trialxxx", "kind": "a", "lines": [{"n": 5}], "rate": -1, "on": False}
    msgspec.convert(good, kind)
    msgspec.convert({**good, "tags": {"a": "b"}, "any-thing": [1], "one": 1, "rate": None, "kind": 3}, kind)
    for change in ({"id": "short"}, {"id": "toolonger"}, {"id": 7}, {"kind": "c"}, {"lines": []}, {"lines": [{}]},
                   {"lines": [{"n": 4}]}, {"lines": [{"n": 10}]}, {"lines": [{"n": 5}] * 3}, {"rate": 0}, {"rate": "x"},
                   {"on": 1}, {"tags": {"a": "b", "c": "d"}}, {"tags": {"a": 1}}, {"one": 2}, {"more": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**good, **change}, kind)
    for key in good:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({other: value for other, value in good.items() if other != key}, kind)
    assert typescript(WHOLE, {}) == (
        '{ id: string; kind: "a" | "b" | 3 | null; lines: { n: number }[]; rate: number | null; on: boolean; '
        'tags?: Record<string, string>; "any-thing"?: unknown; one?: 1 }')


def lists(length: int, levels: int) -> dict[str, Any]:
    """Lists of lists, each of ``length`` items at least."""
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "minItems": length, "items": schema}
    return schema


@pytest.mark.parametrize(("small", "large"), [
    ({"type": "string", "minLength": SAMPLE_SIZE_MAX - 1}, {"type": "string", "minLength": SAMPLE_SIZE_MAX}),
    (lists(SAMPLE_SIZE_MAX - 1, 1), lists(SAMPLE_SIZE_MAX, 1)), (lists(200, 2), lists(300, 2)),
    ({"type": "array", "minItems": 20, "items": {"const": "x" * 3000}},
     {"type": "array", "minItems": 30, "items": {"const": "x" * 3000}}),
    ({"type": "object", "required": ["k" * 60], "properties": {"k" * 60: lists(1000, 1)}},
     {"type": "array", "minItems": 1000, "items": {
         "type": "object", "required": ["k" * 64], "properties": {"k" * 64: {"type": "null"}}}}),
])
def test_a_sample_is_bounded_however_its_lists_multiply(small: Any, large: Any) -> None:
    msgspec.convert(sample(small), compiled(small, "Small"))
    compiled(large, "Large")
    with pytest.raises(ValueError, match="lower minLength and minItems"):
        sample(large)


SECTION = {"mode": "first", "params": {"type": "object"}, "result": {"type": "integer"}}


@pytest.mark.parametrize(("hooks", "told"), [
    ({"onDataFetch": SECTION}, "hooks: onDataFetch is a built-in hook"),
    ({"oninvoice": SECTION}, "hooks: 'oninvoice' is not a valid name of a hook; write `on`"),
    ({"onX" + "x" * 63: SECTION}, "is not a valid name of a hook"),
    ({f"onHook{n}": SECTION for n in range(DECLARED_MAX + 1)}, "hooks: 101 hooks are declared, and the limit is 100"),
    ({"onX": {**SECTION, "mode": "some"}}, "hooks.onX.mode: "),
    ({"onX": {**SECTION, "more": 1}}, "hooks.onX.more: this key does not exist"),
    ({"onX": {**SECTION, "params": {"type": "array"}}}, "hooks: onX.params: the payload of a call is always a map"),
    ({"onX": {**SECTION, "params": {"type": "object", "properties": {"userId": {"type": "integer"}}}}},
     "hooks: onX.params.properties.userId: this property is the id of"),
    ({"onX": {**SECTION, "result": {"type": "string", "pattern": "a"}}}, "hooks: onX.result: $: pattern is not"),
    ({"onX": {**SECTION, "params": {"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "minLength": 2**40}}}}}, "hooks: onX.params: $: the smallest matching value"),
    ({"onX": {**SECTION, "result": lists(300, 2)}}, "hooks: onX.result: $: the smallest matching value"),
    ({"onX": {"mode": "first"}}, "hooks: onX.result: write the JSON Schema of what plugins return, or void = true"),
    ({"onX": {**SECTION, "void": True}}, "hooks: onX.void: a void hook returns nothing"),
    ({"onX": {**SECTION, "default": "text"}}, "hooks: onX.default: the value does not match the schema"),
    ({"onX": {**SECTION, "mode": "all", "default": 1}}, 'hooks: onX.default: in mode "all" the reply is the list'),
    ({"onX": {**SECTION, "mode": "chain"}}, "at least one property of the same name"),
    ({"onX": {"mode": "chain", "params": {"type": "object", "properties": {"a": {"type": "string"}}},
              "result": {"type": "object", "properties": {"a": {"type": "integer"}}}}},
     "hooks: onX.result.properties.a: the next plugin of the chain gets"),
])
def test_a_declaration_that_cannot_be_kept_is_one_line_at_the_start(hooks: dict[str, Any], told: str,
                                                                     tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, {"hooks": hooks, "state_dir": str(tmp_path)})
    assert told in str(caught.value) and "\n" not in str(caught.value)
