"""A form of settings sends what somebody has changed, as the schema has it, and knows nothing of a secret."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from apex_exec.console.acts import Wrong
from apex_exec.console.rendering import environment
from apex_exec.console.sessions import Person, Session
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


class Page(HTMLParser):
    """What a browser that touches nothing sends of a form."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, str] = {}
        self._name = ""
        self._options: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if tag in ("textarea", "select"):
            self._name, self._options = given["name"], []
            self.sent[self._name] = ""
        elif tag == "option":
            self._options.append((given["value"], "selected" in given))
        elif tag == "input" and given.get("type", "text") in ("text", "password") and "name" in given:
            self.sent[given["name"]] = re.sub("[\r\n]", "", given.get("value", ""))

    def handle_data(self, data: str) -> None:
        if self._name:
            self.sent[self._name] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            chosen = [value for value, is_chosen in self._options if is_chosen] or [self._options[0][0]]
            self.sent[self._name] = chosen[-1]
        elif tag == "textarea":  # the first line end belongs to the markup
            text = re.sub("\r\n?", "\n", self.sent[self._name])
            self.sent[self._name] = text.removeprefix("\n").replace("\n", "\r\n")
        if tag in ("select", "textarea"):
            self._name = ""


@pytest.mark.parametrize("one", [
    *ALL, setting("size", {"type": "string", "enum": ["klein", "groß"]}, value="groß", set=True),
    setting("level", {"enum": [1.0, 2.0]}, value=2, set=True),
    setting("gone", {"type": "string", "enum": ["a", "b"]}, value="c", set=True, problem="the value does not fit"),
    setting("yes", {"enum": [1, True]}, value=True, set=True),
    setting("feeds", {"type": "string"}, value="\n\nDear\r\nall\rof you\n", set=True),
    setting("returned", {"type": "string"}, value="Dear\rall", set=True),
    setting("marks", {"type": "string"}, value="\u202eabc\x1b[2J", set=True),
    setting("long", {"type": "string"}, value="x" * 12_000, set=True)])
def test_a_browser_that_touches_nothing_changes_nothing(one: dict[str, Any]) -> None:
    found = {"settings": [one], "stale": [], "revision": "r", "version": "1.0.0", "tenants": 0, "users": 0}
    page = Page()
    page.feed(environment().get_template("settings.html").render(
        session=Session(Person("ann", ("operator",)), 0.0, 0.0), notes=[], fragment=False, version="1", id="sample",
        path="/plugins/sample/settings", found=found, owner={}, known={}, fields=[field_of(one)], may_set=True))
    assert f"value-{one['name']}" in page.sent
    assert written([one], page.sent) == ({}, [])


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
