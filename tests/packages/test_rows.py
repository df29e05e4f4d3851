"""The table of packages is that of the rows; the ranking is whole; packages that are installed here pass."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from apex_exec.registry.vendored.index import Source
from tests.packages.rows import LEFT_OUT, ROWS
from tests.packages.table import BEGIN, HERE, USED_MIN, Result, used, vendor
from tests.support.wheels import make_wheel

INSTALLED = ("attrs", "jinja2", "mako", "pygments", "pluggy", "iniconfig", "sortedcontainers", "packaging")
"""Packages that the tests' own environment has."""


def results() -> dict[int, tuple[str, str]]:
    """rank → (what was vendored, result) of the README's table."""
    text = (HERE / "README.md").read_text("utf-8").partition(BEGIN)[2]
    return {int(rank): (package, result) for rank, package, result in re.findall(
        r"^\| (\d+) \| ([^|]+) \| [^|]* \| ((?:[^|\\]|\\.)+) \|$", text, re.M)}


def test_the_table_has_a_row_for_every_package_and_a_reason_for_every_other() -> None:
    shown = results()
    assert sorted(shown) == [row.rank for row in ROWS]
    for row in ROWS:
        assert row.name in shown[row.rank][0]
    text = (HERE / "README.md").read_text("utf-8")
    for names in LEFT_OUT.values():
        assert all(name in text for name in names.split())


def test_enough_packages_are_used() -> None:
    assert sum(result == "used" for _, result in results().values()) >= USED_MIN


def test_every_rank_before_the_last_row_is_in_the_table_or_left_out_for_a_reason() -> None:
    left_out = " ".join(LEFT_OUT.values()).split()
    assert len(ROWS) == 100 and len(set(left_out)) == len(left_out)
    assert len(ROWS) + len(left_out) == ROWS[-1].rank
    assert not {row.name for row in ROWS} & set(left_out)


@pytest.mark.slow
def test_packages_that_are_installed_here_are_vendored_and_used(tmp_path: Path) -> None:
    names = [*INSTALLED, "markupsafe"]
    for name in names:
        distribution = metadata.distribution(name)
        files = {str(one): Path(str(distribution.locate_file(one))).read_bytes() for one in distribution.files or ()
                 if ".dist-info/" not in str(one) and not str(one).startswith("..") and "__pycache__" not in str(one)}
        make_wheel(tmp_path / "wheels", distribution.metadata["Name"].replace("-", "_"), distribution.version, files,
                   ["markupsafe"] if name in ("jinja2", "mako") else [])
    rows = [row for row in ROWS if row.name in INSTALLED]
    plugins = tmp_path / "plugins"
    results: list[Result] = used(rows, plugins, vendor(rows, plugins, Source("", str(tmp_path / "wheels"), True)))
    assert len(results) == len(INSTALLED)
    assert not [one for one in results if one.failed]
