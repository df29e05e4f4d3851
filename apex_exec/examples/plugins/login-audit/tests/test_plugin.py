"""A login is noted, and nothing is returned."""

from plugin import on_auth


class Context:
    """What the hook uses of its context."""

    def __init__(self):
        self.lines = []
        self.log = self

    def info(self, text, *values):
        self.lines.append(text % values)


def test_a_login_is_noted_and_nothing_returned():
    context = Context()
    assert on_auth(context, {"userId": "u", "sessionId": "s"}) is None
    assert context.lines == ["login of u in session s"]
