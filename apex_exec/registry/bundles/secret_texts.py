"""Finds text that looks like a secret in the files of a bundle: issuers give their secrets forms that can be searched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_FORMS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("a private key", re.compile(rb"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----")),
    ("an AWS access key", re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(rb"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{60})")),
    ("a GitLab token", re.compile(rb"\bglpat-[0-9A-Za-z_-]{20}")),
    ("a Slack token", re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{10}")),
    ("a Stripe key", re.compile(rb"\b[rs]k_live_[0-9A-Za-z]{16}")),
    ("an API key", re.compile(rb"\bsk-(?:live|ant|proj|svcacct)-[0-9A-Za-z_-]{16}")),
    ("a Google API key", re.compile(rb"\bAIza[0-9A-Za-z_-]{35}")),
    ("a PyPI token", re.compile(rb"\bpypi-AgEIcHlwaS5vcmc[0-9A-Za-z_-]{20}")),
)
"""The forms as their issuers document them. Each pattern takes time in proportion to the text."""


def secrets_in(files: Mapping[str, bytes]) -> list[tuple[str, int, str]]:
    """(path, line, kind) of the first match of each form in each file. The secret itself is not returned."""
    return [(path, body.count(b"\n", 0, found.start()) + 1, what)
            for path, body in files.items() for what, form in _FORMS if (found := form.search(body))]
