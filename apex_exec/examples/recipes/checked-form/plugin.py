"""A form that is held to a JSON Schema. fastjsonschema is in ``vendor/``; the schema is a file of the bundle."""

import json
from pathlib import Path
from typing import Any

import fastjsonschema
from workers import Plugin

plugin = Plugin(id="checked-form", version="0.1.0", permissions=[])

SCHEMA = json.loads((Path(__file__).parent / "forms" / "address.json").read_text("utf-8"))
FIELDS = {name: fastjsonschema.compile(rule) for name, rule in SCHEMA["properties"].items()}


@plugin.hook("onActionExecute")
def submit(params: dict[str, Any]) -> dict[str, Any]:
    """Answers "form.submit" with the errors of each field of ``context``; leaves all other actions."""
    if params["action"] != "form.submit":
        return {"result": None, "metadata": {}}
    form = params["context"]
    errors = {name: "this is missing" for name in SCHEMA["required"] if form.get(name) in (None, "")}
    errors |= {name: "there is no such field" for name in form if name not in FIELDS}
    for name, check in FIELDS.items():
        if name in form and name not in errors and (why := _problem(check, form[name])):
            errors[name] = why
    return {"result": {"ok": not errors, "errors": errors}, "metadata": {"fields": len(form)}}


def _problem(check: Any, value: Any) -> str:
    try:
        check(value)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error.message).removeprefix("data ")
    return ""
