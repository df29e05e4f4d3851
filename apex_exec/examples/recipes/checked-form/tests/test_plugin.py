"""What the form promises: every wrong field is named, all at once, in words."""

from typing import Any

from plugin import plugin
from workers.fake import FakePlatform

GOOD = {"name": "Ada", "zip": "1010", "country": "AT", "floor": 3}


def ask(form: dict[str, Any]) -> Any:
    """The answer to one form."""
    return FakePlatform(plugin).call("onActionExecute", {"action": "form.submit", "context": form})["result"]


def test_a_good_form_has_no_errors() -> None:
    assert ask(GOOD) == {"ok": True, "errors": {}}


def test_all_wrong_fields_are_named_at_once() -> None:
    errors = ask({"name": "A", "zip": "x", "floor": 3.5, "colour": "red"})["errors"]
    assert sorted(errors) == ["colour", "country", "floor", "name", "zip"]
    assert errors["country"] == "this is missing" and errors["colour"] == "there is no such field"
    assert errors["name"] == "must be longer than or equal to 2 characters"


def test_other_actions_are_left_to_other_plugins() -> None:
    assert FakePlatform(plugin).call("onActionExecute", {"action": "x", "context": {}})["result"] is None
