"""Each folder has a README that is its map, and links between pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import apex_exec

ROOT = Path(apex_exec.__file__).parent.parent
PACKAGE = ROOT / "apex_exec"


@pytest.mark.parametrize("folder", ["apex_exec", "workers", "tests", "benchmarks", *(
    f"apex_exec/{path.name}" for path in sorted(PACKAGE.iterdir()) if path.is_dir() and path.name != "__pycache__")])
def test_every_folder_has_its_map(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text("utf-8")
    assert text.startswith("# ") and len(text) > 300


PACKAGES = sorted(str(path.parent.relative_to(ROOT)) for top in ("apex_exec", "workers")
                  for path in (ROOT / top).rglob("__init__.py") if "node_modules" not in path.parts)


@pytest.mark.parametrize("folder", PACKAGES)
def test_a_map_names_every_file_of_its_folder_and_no_other(folder: str) -> None:
    place = ROOT / folder
    text = (place / "README.md").read_text("utf-8")
    there = {path.name for path in place.glob("*.py")} - {"__init__.py"}
    assert not {name for name in there if f"`{name}`" not in text}, "files that the map leaves out"
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+\.py)`", row)}
    assert named <= there, "files that are not there"


@pytest.mark.parametrize("page", ["apex_exec/README.md", "apex_exec/daemon/README.md", "apex_exec/core/README.md",
                                  ".github/CONTRIBUTING.md"])
def test_every_file_that_a_page_for_programmers_names_is_there(page: str) -> None:
    """A path with a folder is looked for from the top, from the package and from the page; a bare name is the maps'."""
    text = (ROOT / page).read_text("utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|ts|md|toml|json))`", text))
    assert named and not {name for name in named if not any(
        (place / name).exists() for place in (ROOT, PACKAGE, (ROOT / page).parent, ROOT / "tests"))}


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in ROOT.rglob("*.md"):
        if any(part in ("node_modules", ".venv", ".git") for part in page.parts):
            continue
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken
