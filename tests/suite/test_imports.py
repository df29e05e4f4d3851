"""Files that know each other cannot be understood, moved or tested alone; nor can tests and benchmarks."""

from __future__ import annotations

import pytest

from tests.suite.imports import graph, imported, module_name, sources


@pytest.mark.slow
def test_no_two_files_import_each_other() -> None:
    found = graph("apex_exec", "workers")
    assert len(found) > 250, "the graph is not of the whole code"
    pairs = {(one, other) for one, others in found.items() for other in others if one < other and one in found[other]}
    assert not pairs


@pytest.mark.slow
def test_tests_do_not_import_benchmarks_nor_benchmarks_tests() -> None:
    """What both need is public: ``apex_exec.testing``."""
    tests, benchmarks = sources("tests"), sources("benchmarks")
    assert len(tests) > 150 and len(benchmarks) > 20
    wrong = {(module_name(path), name) for path in (*tests, *benchmarks) for name in imported(path, set())
             if name.split(".")[0] == ("benchmarks" if path in tests else "tests")}
    assert not wrong
