"""Known actions are answered, unknown ones are left alone."""

from plugin import on_action


def test_known_actions_are_answered() -> None:
    assert on_action({"action": "echo", "context": {"n": 1}}) == {"result": {"n": 1}, "metadata": {"handled": True}}
    assert on_action({"action": "sum", "context": {"numbers": [1, 2, 3]}})["result"] == 6


def test_unknown_actions_are_left_to_the_next_plugin() -> None:
    assert on_action({"action": "other", "context": {}}) == {"result": None, "metadata": {"handled": False}}
