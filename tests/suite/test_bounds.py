"""What `.ci/bounds` tries: it is run by hand only, so its table is held to the project here."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bounds() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("ci_bounds", str(ROOT / ".ci" / "bounds"))
    spec = importlib.util.spec_from_loader("ci_bounds", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_each_library_that_a_wall_rests_on_has_one_lower_and_one_upper_bound(bounds: ModuleType) -> None:
    """Two extras that ask for different versions of one library leave the lowest untried."""
    for library in bounds.WALLS:
        lower, below = bounds.requirement_of(library)
        assert re.fullmatch(r"\d+(\.\d+)+", lower) and re.fullmatch(r"<\d+(\.\d+)*", below), library


def test_the_tests_of_every_wall_exist(bounds: ModuleType) -> None:
    assert [path for paths in bounds.WALLS.values() for path in paths if not (ROOT / path).exists()] == []
