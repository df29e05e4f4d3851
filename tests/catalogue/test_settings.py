"""What a manifest may declare as settings: each schema that is refused is refused with its place and the way out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apex_exec.catalogue.settings import SETTINGS_MAX, Setting, effective, injected, problem, read
from apex_exec.common.redaction import FEW, Redactor
from apex_exec.registry.bundles.manifest import check_manifest

FETCH = {"header": "Authorization", "value": "Bearer {secret}", "hosts": ["api.test"]}


def one(**schema: Any) -> Setting:
    return read({"properties": {"x": schema}}, ("api.test",))[0]


BAD: list[tuple[Any, str]] = [
    ([], "settings must be a map"),
    ({"$ref": "https://evil.test/schema.json"}, "$ref is not supported"),
    ({"properties": {"x": {"$ref": "https://evil.test/s.json"}}}, "'$ref' is not supported"),
    ({"properties": {"x": {"type": "object", "properties": {"y": {"$ref": "#/x"}}}}}, "'$ref' is not supported"),
    ({"properties": {}, "required": ["x"]}, "required is not supported: give the setting a default"),
    ({"properties": {}, "additionalProperties": True}, "additionalProperties false or absent"),
    ({"properties": {f"x{number}": {"type": "string"} for number in range(SETTINGS_MAX + 1)}}, "at most 50"),
    ({"properties": {"x": {"type": "string", "description": "y" * 40_000}}}, "larger than 32768 bytes"),
    ({"properties": {"é": {"type": "string"}}}, "begin with a letter"),
    ({"properties": {"__proto__": {"type": "string"}}}, "begin with a letter"),
    ({"properties": {"x": {}}}, "the setting has no type"),
    ({"properties": {"x": {"type": "string", "pattern": "(a+)+"}}}, "pattern is not supported"),
    ({"properties": {"x": {"type": "integer", "default": "3"}}}, "$.properties.x.default: Expected `int`"),
    ({"properties": {"x": {"enum": ["a"], "default": "b"}}}, 'it is one of ["a"]'),
    ({"properties": {"x": {"type": "integer", "secret": True}}}, "a secret must be of the type"),
    ({"properties": {"x": {"type": "string", "secret": "yes"}}}, "true or false"),
    ({"properties": {"x": {"type": "string", "secret": True, "default": "12345678"}}}, "a secret cannot have a "
                                                                                       "default"),
    ({"properties": {"x": {"type": "string", "fetch": FETCH}}}, "only a secret can be put into requests"),
    ({"properties": {"x": {"type": "string", "secret": True, "fetch": {**FETCH, "hosts": ["evil.test"]}}}},
     "'evil.test' is not in network.allow"),
    ({"properties": {"x": {"type": "string", "secret": True, "fetch": {**FETCH, "value": "no place"}}}}, "{secret}"),
    ({"properties": {"x": {"type": "string", "secret": True, "fetch": {**FETCH, "value": "a\r\nb: {secret}"}}}},
     "one line of ASCII"),
    ({"properties": {"x": {"type": "string", "secret": True, "fetch": {**FETCH, "header": "A: b"}}}}, "header"),
    ({"properties": {"x": {"type": "string", "secret": True, "fetch": {"header": "A"}}}}, "write {"),
]


@pytest.mark.parametrize("schema,words", BAD, ids=range(len(BAD)))
def test_a_schema_that_cannot_be_kept_is_refused_with_its_place(schema: Any, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(schema, ("api.test",))
    assert words in str(refused.value) and str(refused.value).startswith("$")


def test_a_manifest_says_what_is_wrong_with_its_settings() -> None:
    manifest = {"id": "set", "name": "Set", "version": "1.0.0", "author": "A", "permissions": [],
                "manifest": {"entrypoint": "plugin.py", "hooks": ["onAuthSuccess"]},
                "settings": {"properties": {"x": {"$ref": "https://evil.test"}}}}
    found, problems = check_manifest(json.dumps(manifest).encode())
    assert found is None and [one["code"] for one in problems] == ["settings_invalid"]
    assert "settings.properties.x" in problems[0]["message"] and "$ref" in problems[0]["message"]


def test_the_users_value_wins_and_what_does_not_fit_counts_as_not_there() -> None:
    settings = read({"properties": {
        "a": {"type": "integer", "default": 1}, "b": {"type": "string"}, "c": {"type": "string", "secret": True},
        "d": {"type": "string", "secret": True, "fetch": FETCH}}}, ("api.test",))
    layers = [{"a": 2, "b": "all", "c": "12345678", "d": "87654321"}, {"a": "three"}, {"b": "mine", "gone": 1}]
    assert effective(settings, layers) == {"a": 2, "b": "mine", "c": "12345678"}
    assert effective(settings, []) == {"a": 1}
    (bound,) = injected(settings, layers)
    assert (bound[0].filled(bound[1]), bound[0].hosts) == ("Bearer 87654321", ("api.test",))


@pytest.mark.parametrize("value", ["short", 12345678, "x" * 9000, None, "two\nlines here"])
def test_a_secret_that_cannot_be_one_is_refused_without_its_value(value: Any) -> None:
    why = problem(one(type="string", secret=True, fetch=FETCH), value)
    assert why and str(value) not in why


@pytest.mark.parametrize("more", [0, FEW + 5])
def test_every_exact_occurrence_is_redacted_however_many_secrets_there_are(more: int) -> None:
    redactor = Redactor({"secret-one", "secret-one-longer", "-----BEGIN\nline-of-key\n", *(
        f"other-{number}-secret" for number in range(more))})
    assert redactor.redacted("a secret-one-longer, secret-onesecret-one") == "a [secret], [secret][secret]"
    assert redactor.redacted("first line-of-key, then nothing") == "first [secret], then nothing"
    assert redactor.redacted("secret-on and ecret-one") == "secret-on and ecret-one"
