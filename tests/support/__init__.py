"""What the tests share: real daemons, real servers, and a plain word where something they need is missing."""

from __future__ import annotations

import os

import pytest

PYTHONS = "APEXTEST_PYTHONS"
"""The variable that keeps what ``APEX_EXEC_PYTHONS`` said: a daemon would take that one for its configuration."""
RUN_FOLDER = "APEXTEST_FOLDER"
"""The variable that names the run's folder (``tests.support.folders``) to every process of the run."""


def need(condition: object, reason: str) -> None:
    """Skips the test where ``condition`` does not hold; fails it in CI, where everything must be there."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {reason}")
    pytest.skip(reason)
