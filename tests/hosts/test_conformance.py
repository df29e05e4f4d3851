"""The ZMTP and the MessagePack of the example host in PHP keep the kit's cases of what arrives and what is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from apex_exec.conformance import host_cases
from apex_exec.conformance.cases import chosen, run
from apex_exec.conformance.host_under_test import HostUnderTest
from tests.hosts.test_example_hosts import STRICT_PHP
from tests.support import need

pytestmark = pytest.mark.system
KEPT = ["requests/", "replies/values", "replies/error-", "replies/junk", "replies/in-", "replies/size",
        "replies/long-form", "replies/empty-frame", "connection/lost", "connection/never-sent"]
"""Left out: what an example leaves to a client. It waits its time out for a reply that cannot be read, takes any answer
for the one that it asked for, answers a PING only while it waits, and neither aborts nor provides."""


def test_the_host_in_php_keeps_the_cases_of_bytes_and_values() -> None:
    need(shutil.which("php"), "php (Debian's php-cli)")
    cases = chosen(host_cases.CASES, KEPT)
    assert len(cases) > 60
    with HostUnderTest(["php", *STRICT_PHP, str(Path(__file__).parent / "driver.php")]) as host:
        assert [result for result in run(cases, host.case) if result.outcome != "kept"] == []
