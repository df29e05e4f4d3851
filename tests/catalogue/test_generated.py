"""Files that are made from the catalogue are what the catalogue makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex_exec.catalogue.generated import files


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_what_is_made_from_the_catalogue_is_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == files()[path], "run `python -m apex_exec.catalogue` and commit what it writes"
