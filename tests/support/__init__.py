"""What the tests share: real daemons, real servers, and a plain word where something they need is missing."""

from __future__ import annotations

import os

import pytest


def need(condition: object, reason: str) -> None:
    """Skips the test where ``condition`` does not hold; fails it in CI, where everything must be there."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {reason}")
    pytest.skip(reason)
