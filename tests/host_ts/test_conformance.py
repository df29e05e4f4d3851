"""The TypeScript client keeps every case of the conformance kit."""

from __future__ import annotations

from apex_exec.conformance import host_cases
from apex_exec.conformance.cases import run
from apex_exec.conformance.host_under_test import HostUnderTest
from tests.host_ts.conftest import COMPILED, Scenario

DRIVER = COMPILED.parents[2] / "apex_exec/examples/host-ts/conformance.js"


def test_the_typescript_client_keeps_every_case(scenario: Scenario) -> None:
    """``scenario`` compiles it."""
    with HostUnderTest(["node", str(DRIVER)]) as host:
        assert [result for result in run(host_cases.CASES, host.case) if result.outcome != "kept"] == []
