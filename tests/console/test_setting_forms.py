"""A form of settings sends what somebody has changed, as the schema has it, and knows nothing of a secret."""

from __future__ import annotations

from typing import Any

import pytest

from apex_exec.console.acts import Wrong
from apex_exec.console.setting_forms import field_of, written


def setting(name: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "title": "", "schema": schema, "secret": False, "set": False, "source": "nothing", **more}


ROWS = setting("rows", {"type": "integer", "minimum": 1, "maximum": 9}, value=5, default=5, source="default")
REGION = setting("region", {"type": "string", "enum": ["eu", "us"]}, value="eu", set=True, source="everybody")
WEEKLY = setting("weekly", {"type": "boolean"})
TEXT = setting("greeting", {"type": "string", "maxLength": 400}, value="Dear\nall", set=True)
LIST = setting("limits", {"type": "array", "items": {"type": "integer"}}, value=[1, 2])
KEY = setting("key", {"type": "string", "secret": True}, secret=True, set=True, fetch={
    "header": "Authorization", "value": "Bearer {secret}", "hosts": ["api.example.com"]})
ALL = [ROWS, REGION, WEEKLY, TEXT, LIST, KEY]


@pytest.mark.parametrize(("one", "kind", "text"), [
    (ROWS, "number", "5"), (REGION, "choice", '"eu"'), (WEEKLY, "choice", ""), (TEXT, "lines", "Dear\nall"),
    (LIST, "json", "[\n  1,\n  2\n]"), (KEY, "secret", "")])
def test_a_field_has_the_kind_of_its_schema_and_a_secret_has_no_text(one: dict[str, Any], kind: str,
                                                                     text: str) -> None:
    field = field_of(one)
    assert (field.kind, field.text) == (kind, text)


def test_a_field_says_what_holds_and_where_a_secret_goes() -> None:
    assert field_of(ROWS).where == "the default" and "1 to 9" in field_of(ROWS).hint
    assert field_of(WEEKLY).choices == [("", "not set"), ("true", "true"), ("false", "false")]
    hint = field_of(KEY).hint
    assert "Goes into the header Authorization of requests to api.example.com; the plugin never has it" in hint


def test_what_was_not_touched_is_not_sent() -> None:
    untouched = {f"value-{one['name']}": field_of(one).text.replace("\n", "\r\n") for one in ALL}  # as browsers send it
    assert written(ALL, untouched) == ({}, [])
    assert written(ALL, {}) == ({}, [])


@pytest.mark.parametrize(("form", "values", "names"), [
    ({"value-rows": "7"}, {"rows": 7}, []), ({"value-rows": "7.0"}, {"rows": 7}, []),
    ({"value-region": '"us"'}, {"region": "us"}, []), ({"value-weekly": "true"}, {"weekly": True}, []),
    ({"value-greeting": "a\r\nb"}, {"greeting": "a\nb"}, []), ({"value-greeting": ""}, {"greeting": ""}, []),
    ({"value-limits": "[3]"}, {"limits": [3]}, []), ({"value-key": "sk-12345678"}, {"key": "sk-12345678"}, []),
    ({"value-key": "sk-12345678", "unset-key": "1"}, {}, ["key"]),
    ({"value-unknown": "1", "unset-unknown": "1"}, {}, [])])
def test_what_somebody_wrote_becomes_values(form: dict[str, str], values: dict[str, Any], names: list[str]) -> None:
    assert written(ALL, form) == (values, names)


@pytest.mark.parametrize(("form", "says"), [
    ({"value-rows": ""}, "take it back"), ({"value-rows": "many"}, "not JSON"), ({"value-rows": "true"}, "a number"),
    ({"value-limits": "[1,"}, "not JSON"), ({"value-limits": "[" * 100_000}, "not JSON")])
def test_what_is_no_value_is_refused_with_what_to_write(form: dict[str, str], says: str) -> None:
    with pytest.raises(Wrong, match=says):
        written(ALL, form)
