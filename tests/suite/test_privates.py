"""A test that looks at privates holds the code in its present shape; it may, if what it promises shows nowhere else."""

from __future__ import annotations

import pytest

from tests.suite.imports import ROOT, sources
from tests.suite.privates import accesses

BOUND = "a bound made small, or a time made short, so that the test reaches it"
KEPT = "that nothing is kept when all is over, which no answer tells"
WORLD = "the simulator's own world, or the core's tombstones, whose number is the promise"
PRIVATES = {
    "tests/cli/test_framework.py": (1, "folders of the machine, where a daemon may be running"),
    "tests/cli/test_output.py": (2, "the terminal's size, and a stream that is not the test's own"),
    "tests/client/test_connections.py": (1, "folders of the machine, where a daemon may be running"),
    "tests/core/test_bucket.py": (1, KEPT),
    "tests/core/test_fair.py": (4, KEPT),
    "tests/core/test_pool_machine.py": (1, WORLD),
    "tests/core/test_shared.py": (1, KEPT),
    "tests/core/test_states.py": (1, "the one table of who handles what"),
    "tests/daemon/test_backup.py": (1, "one entry of a backup's list, whose file changes while it is read"),
    "tests/executor/test_governing_alone.py": (4, "samples that are counted, since their number is the promise"),
    "tests/executor/test_guard.py": (4, KEPT),
    "tests/executor/test_loop.py": (5, "looks of the loop that are counted, since their number is the promise"),
    "tests/daemon/test_turn.py": (1, "how many cores the machine has, on which the promise depends"),
    "tests/daemon/test_metrics.py": (5, "the exporter's server without its process: its thread fails to start"),
    "tests/executor/test_owned_work.py": (1, "what a worker marked and the supervisor has not read"),
    "tests/daemon/test_open_api_calls.py": (6, f"the gateway's words and their moment, which the test decides; {KEPT}"),
    "tests/daemon/test_requests.py": (4, BOUND),
    "tests/daemon/test_stream_peers.py": (15, f"{BOUND}; {KEPT}"),
    "tests/gateway/test_fence.py": (4, "what the tables were a minute ago, and a compiler that puts nothing inside"),
    "tests/gateway/test_plans.py": (13, "the plans that are kept, and how large they are taken to be"),
    "tests/gateway/conftest.py": (7, "other tables for a backend that is running: a start takes seconds"),
    "tests/gateway/test_commit_bound.py": (6, BOUND),
    "tests/gateway/test_postgres_read.py": (2, "a connection of the pool, after a query"),
    "tests/gateway/test_dashboards.py": (1, "the loaders of values, so that plain answers are read in the same form"),
    "tests/gateway/test_documentation.py": (1, "the table that the documentation is held to"),
    "tests/door/test_answers_kept.py": (1, BOUND),
    "tests/gateway/test_write_groups.py": (6, f"{BOUND}; a commit that fails, at a moment which the test decides"),
    "tests/gateway/test_fetch.py": (2, "aiohttp's own test server, which has no public way to end"),
    "tests/gateway/test_turns.py": (2, "the moment at which a text has been compiled and the next call is cancelled"),
    "tests/gateway/test_host_methods.py": (7, KEPT),
    "tests/storage/test_store.py": (1, KEPT),
    "tests/market/test_index.py": (1, "a time limit of two minutes"),
    "tests/ledger/test_audit_cli.py": (1, "reads that are counted, since their number is the promise"),
    "tests/ledger/test_audit_trail.py": (7, "the ledger's words and their moment, which the test decides"),
    "tests/ledger/test_people.py": (6, f"{BOUND}; a ledger of before there were pseudonyms; a reader without rights"),
    "tests/ledger/test_turns.py": (1, "reads that are counted, since their number is the promise"),
    "tests/market/test_billed_from_the_ledger.py": (1, "reads that are counted, since their number is the promise"),
    "tests/market/test_lasting.py": (6, f"{BOUND}; {KEPT}"),
    "tests/market/test_packages.py": (1, BOUND),
    "tests/market/test_proof.py": (2, "a machine and a bound that this one has not"),
    "tests/market/test_shop.py": (3, "a month that must not be read, and a ledger that cannot be"),
    "tests/market/test_submission_lane.py": (3, "the moment at which a submission began"),
    "tests/registry/test_lifecycle.py": (1, "a newer daemon: the version of its plugin API"),
    "tests/registry/test_rows_decide.py": (5, "a database that fails at one transaction of a running registrar"),
    "tests/registry/test_scan.py": (2, BOUND),
    "tests/registry/test_vendored.py": (1, "a disk that is full at the last step of an exchange"),
    "tests/sandbox/test_cgroup.py": (9, "folders of control groups, which are the effect itself"),
    "tests/sim/history.py": (1, WORLD),
    "tests/sim/invariants.py": (1, WORLD),
    "tests/suite/test_other_user.py": (5, "the support's own copy of the interpreter, made anew"),
    "tests/door/test_jwt_callers.py": (2, KEPT),
    "tests/fleet/test_chains.py": (3, KEPT),
    "tests/fleet/test_losses.py": (1, KEPT),
    "tests/market/test_console_pages.py": (2, KEPT),
    "tests/registry/test_uploads.py": (1, KEPT),
    "tests/wire/test_values.py": (1, "the gateway's one decoder, held to the same rule"),
}
"""``file: (how many, why)``. A number may fall and may not rise: what a test needs becomes public, or has a reason."""


@pytest.mark.slow
def test_tests_speak_to_public_names() -> None:
    paths = {path.relative_to(ROOT).as_posix(): path for path in sources("tests")}
    assert len(paths) > 200
    wrong = {name: found for name, path in paths.items()
             if len(found := list(accesses(path))) > PRIVATES.get(name, (0, ""))[0]}
    assert not wrong
