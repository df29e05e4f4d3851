"""Coverage is ours: lines and branches, no pragma, no omit, exact at the boundary, and a forged report shows."""

from __future__ import annotations

from fractions import Fraction

import pytest

from apex_exec.errors import Refusal
from apex_exec.market.review import coverage
from apex_exec.market.review.coverage import Measured, measure

SOURCE = b'''def f(x):
    if x:  # pragma: no branch
        return 1
    return 2  # pragma: no cover


def g():  # pragma: no cover
    return 3
'''
RUN = [(-1, 1), (1, 7), (7, -1), (-1, 2), (2, 3), (3, -1)]


def test_lines_and_branches_count_and_no_pragma_helps() -> None:
    found = measure({"plugin.py": SOURCE, "tests/test_x.py": b"x = 1\n", "README.md": b"#"}, {"plugin.py": RUN})
    assert (found.lines, found.lines_run, found.branches, found.branches_run) == (6, 4, 2, 1)
    assert found.missing == {"plugin.py": [4, 8]} and not found.enough


def test_a_file_that_was_never_run_counts_in_full() -> None:
    found = measure({"plugin.py": SOURCE, "lib/more.py": b"x = 1\ny = 2\n"}, {"plugin.py": RUN})
    assert (found.lines, found.lines_run) == (8, 4) and found.missing["lib/more.py"] == [1, 2]


def test_a_configuration_of_the_plugins_own_is_not_read() -> None:
    settings = b"[run]\nomit = *\nbranch = False\n[report]\nexclude_lines =\n    .*\n"
    plain = measure({"plugin.py": SOURCE}, {"plugin.py": RUN})
    assert measure({"plugin.py": SOURCE, ".coveragerc": settings, "setup.cfg": settings}, {"plugin.py": RUN}) == plain


@pytest.mark.parametrize(("run", "whole", "enough"), [
    (6999, 10_000, False), (69_999, 100_000, False), (7000, 10_000, True), (7, 10, True), (0, 0, False)])
def test_69_99_percent_fails_and_70_passes(run: int, whole: int, enough: bool) -> None:
    found = Measured(whole, run, 0, 0)
    assert found.enough is enough
    assert Fraction(found.percent()) <= found.share * 100, "a share is never shown larger than it is"


def test_percent_is_cut_and_not_rounded() -> None:
    assert Measured(100_000, 69_999, 0, 0).percent() == "69.99"


@pytest.mark.parametrize("arcs", [{"other.py": [(-1, 1)]}, {"plugin.py": [(-1, 99)]}, {"tests/test_x.py": [(-1, 1)]},
                                  {"plugin.py": [(-1, 1)] * (coverage.ARCS_MAX + 1)}])
def test_a_report_of_what_is_not_there_is_forged(arcs: coverage.Arcs) -> None:
    with pytest.raises(Refusal) as caught:
        measure({"plugin.py": SOURCE, "tests/test_x.py": b"x = 1\n"}, arcs)
    assert caught.value.reason == "report_forged"


@pytest.mark.parametrize("source", [b"x = " + b"(" * 100_000, b"def f(:\n", b"x = " + b"-" * 500_000 + b"1\n"])
def test_source_that_breaks_a_parser_is_one_clear_error(source: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        measure({"plugin.py": source}, {})
    assert caught.value.reason == "source_not_measurable"
