"""A login is noted, and nothing is returned."""

import pytest
from plugin import plugin
from workers.fake import FakePlatform


def test_a_login_is_noted_and_nothing_returned(caplog: pytest.LogCaptureFixture) -> None:
    platform = FakePlatform(plugin)
    with caplog.at_level("INFO"):
        assert platform.call("onAuthSuccess", {"sessionId": "s"}) is None
    assert caplog.messages == [f"login of {platform.user_id} in session s"]
