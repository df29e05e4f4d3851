"""Code that nobody runs misleads its readers."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.suite.imports import ROOT, sources
from tests.suite.used_elsewhere import FRAMEWORKS, USED
from tests.support import need

vulture = pytest.importorskip("vulture", reason="vulture is not installed (extra `test`)")
CONFIDENCE_MIN = 60


def unused(paths: list[Path]) -> list[str]:
    """``file: name`` of everything that nothing refers to."""
    search = vulture.Vulture(ignore_decorators=FRAMEWORKS)
    search.scavenge([str(path) for path in paths])
    return [f"{Path(item.filename).relative_to(ROOT) if Path(item.filename).is_relative_to(ROOT) else item.filename}"
            f": {item.name}" for item in search.get_unused_code(min_confidence=CONFIDENCE_MIN)
            if not item.typ.startswith("unreachable")]


@pytest.mark.slow
def test_nothing_in_the_code_is_unused_without_a_reason() -> None:
    paths = sources("apex_exec", "workers")
    need(len(paths) > 250, "the code as a tree")
    found = [place for place in unused(paths) if not any(fnmatch(place, used) for used in USED)]
    assert not found, "remove it, or say in used_elsewhere.py who uses it"


def test_a_function_that_nobody_calls_is_found(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text("def used():\n    return 1\n\n\ndef forgotten():\n    return used()\n")
    assert unused([file]) == [f"{file}: forgotten"]
