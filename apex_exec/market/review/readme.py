"""What a README must have before a person reviews it: set-up instructions, an example, the author's own text. Pure."""

from __future__ import annotations

import difflib
import re

BYTES_MAX = 256 * 1024
OWN_LINES_MIN = 3
"""How many lines must not come from the scaffold."""
SCAFFOLD_RATIO_MAX = 0.9
_SETUP = re.compile(r"\b(set[ -]?up|install(ation|ing)?|getting started|quick ?start|configur(e|ing|ation))\b", re.I)
_EXAMPLE = re.compile(r"\b(examples?|usage)\b", re.I)
_ATX = re.compile(r"#{1,6}[ \t]")
_UNDERLINE = re.compile(r"(=+|-+)[ \t]*")
_PLACEHOLDER = re.compile(r"\b(TODO|FIXME|TBD|lorem ipsum)\b|<(describe|your|insert)[^<>\n]*>", re.I)


def readme_problems(data: bytes | None, scaffold: str = "") -> list[str]:
    """What is missing, one sentence each; an empty list if nothing is. ``scaffold`` is what ``plugin new`` wrote for
    this id."""
    if data is None:
        return ["the bundle has no README.md"]
    if len(data) > BYTES_MAX:
        return [f"README.md is larger than {BYTES_MAX} bytes"]
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    sections = _sections(text)
    problems = []
    if not any(_SETUP.search(title) and body for title, body in sections):
        problems.append("README.md has no section on set-up: add a heading such as `## Set-up`, "
                        "with the steps under it")
    if not any(_EXAMPLE.search(title) and body for title, body in sections):
        problems.append("README.md has no example: add a heading such as `## Example`, with one under it")
    own = [line for line in _lines(text) if line not in set(_lines(scaffold))]
    ratio = difflib.SequenceMatcher(None, _lines(scaffold), _lines(text), autojunk=False).ratio() if scaffold else 0.0
    if len(own) < OWN_LINES_MIN or ratio > SCAFFOLD_RATIO_MAX:
        problems.append("README.md still is the scaffold's text: say what the plugin does, and how "
                        "to set it up and use it")
    if found := _PLACEHOLDER.search(text):
        problems.append(f"README.md still has a placeholder: {found[0]!r}")
    return problems


def _sections(text: str) -> list[tuple[str, str]]:
    """(heading, text up to the next heading of any level). Headings inside code blocks do not count.

    Line by line: a regular expression for all of it was kept busy for hours by one heading with a thousand spaces."""
    found: list[tuple[str, list[str]]] = []
    fence, before = "", ""
    for line in text.split("\n"):
        mark = line[:3] if line.startswith(("```", "~~~")) else ""
        if mark and fence in ("", mark):
            fence = "" if fence else mark
        is_code = bool(fence or mark)
        if not is_code and _ATX.match(line) and (title := line.lstrip("#").strip(" \t#")):
            found.append((title, []))
        elif not is_code and before[:1].strip() and _UNDERLINE.fullmatch(line):
            if found and found[-1][1]:
                found[-1][1].pop()  # the heading that this line underlines
            found.append((before, []))
        elif found:
            found[-1][1].append(line)
        before = "" if is_code else line
    return [(title, "\n".join(lines).strip()) for title, lines in found]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
