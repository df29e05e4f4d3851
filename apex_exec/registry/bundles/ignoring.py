"""Decides which files of an author's folder are excluded from the bundle: the usual ones, and those in ``.apxignore``.

``.apxignore`` lies at the top of the folder and is written like ``.gitignore``: one pattern a line; ``#`` begins a
comment; ``!`` takes back an earlier exclusion; a ``/`` at the end matches folders only, and one before the end ties the
pattern to the top; ``*`` and ``?`` stop at a ``/``, ``**`` does not. An excluded folder is not read. Matching takes at
most time in proportion to pattern length times path length: the folder may come from a stranger, and the registrar
reads it.
"""

from __future__ import annotations

from typing import NamedTuple

from apex_exec.errors import Code, Refusal

IGNORE_NAME = ".apxignore"
IGNORE_BYTES_MAX = 65_536
RULES_MAX = 500
WORK_MAX = 100_000_000
"""The most work for one folder, in characters of names times stars of patterns. The worst case takes ten seconds; a
thousand files under fifty ordinary patterns need a hundredth of it."""
USUAL = """
*.apx
/dist/
node_modules/
venv/
*.egg-info/
htmlcov/
*~
*.swp
*.bak
*.orig
Thumbs.db
desktop.ini
*.env
*.pem
*.key
*.p12
*.pfx
*.jks
*.keystore
*.kdbx
*.ppk
id_rsa*
id_dsa*
id_ecdsa*
id_ed25519*
credentials
credentials.json
credentials.toml
credentials.y*ml
secrets.json
secrets.toml
secrets.y*ml
"""
"""Excluded unless ``.apxignore`` takes it back with ``!``: the output of packing itself, what tools leave behind, and
names that usually hold secrets, in upper or lower case. Names that begin with a dot are never part of a bundle."""

_Set = tuple[bool, tuple[tuple[str, str], ...]]  # negated, ranges
_Token = str | _Set
_ANY = ""  # `*` within one part of a path
_Segment = tuple[_Token, ...]
_ANY_FOLDERS: _Segment = (_ANY, _ANY)  # `**`


_ONE: _Set = (True, ())  # `?`: every character that is not in the empty set


class _Rule(NamedTuple):
    segments: tuple[_Segment, ...]
    takes_back: bool
    folders_only: bool
    at_top: bool
    folded: bool
    stars: int


class Ignore:
    """The rules of one folder, the usual ones first. The last rule that matches decides."""

    def __init__(self, text: str = "") -> None:
        """``text`` is the content of ``.apxignore``. Raises Refusal if it has more patterns than a person writes."""
        self._rules = [rule for line in USUAL.split() if (rule := _rule(line, folded=True))]
        own = [rule for line in text.splitlines() if (rule := _rule(line, folded=False))]
        if len(own) > RULES_MAX:
            raise Refusal("bad_ignore", f"{IGNORE_NAME} has more than {RULES_MAX} patterns", code=Code.INVALID_INPUT,
                          hint="name folders instead of files")
        self._rules += own
        self._work = 0

    def leaves_out(self, path: str, is_folder: bool) -> bool:
        """Whether ``path``, relative to the bundle's folder and written with ``/``, is excluded from the bundle.

        Raises Refusal if the names and patterns would take too long to compare.
        """
        left_out = False
        for rule in self._rules:
            if left_out != rule.takes_back or (rule.folders_only and not is_folder):
                continue  # the rule would not change the answer, or it is for folders only
            parts = (path.casefold() if rule.folded else path).split("/")
            self._work += rule.stars * len(path)
            if self._work > WORK_MAX:
                raise Refusal("bad_ignore", f"{IGNORE_NAME} takes too long to match", code=Code.INVALID_INPUT,
                              hint="use fewer stars in the patterns")
            if _matches_path(rule.segments, parts if rule.at_top else parts[-1:]):
                left_out = not rule.takes_back
        return left_out


def _rule(line: str, *, folded: bool) -> _Rule | None:
    """One line as a rule; None for a comment or an empty line."""
    text = line.rstrip("\r\n")
    while text.endswith((" ", "\t")) and not text.endswith(("\\ ", "\\\t")):
        text = text[:-1]
    if not text or text.startswith("#"):
        return None
    takes_back = text.startswith("!")
    text = text[1:] if takes_back else text
    folders_only = text.endswith("/")
    text = text.rstrip("/") if folders_only else text
    at_top = "/" in text
    segments = tuple(_segment(part) for part in text.removeprefix("/").split("/") if part)
    if not segments:
        return None
    stars = sum(segment.count(_ANY) * len(segment) for segment in segments)
    return _Rule(segments, takes_back, folders_only, at_top, folded, stars)


def _segment(text: str) -> _Segment:
    if text == "**":
        return _ANY_FOLDERS
    made: list[_Token] = []
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == "*":
            if not made or made[-1] != _ANY:
                made.append(_ANY)
        elif character == "?":
            made.append(_ONE)
        elif character == "\\" and at < len(text):
            made.append(text[at])
            at += 1
        elif character == "[" and (end := text.find("]", at + 1 + (text[at : at + 1] in ("!", "^")))) > 0:
            made.append(_set(text[at:end]))
            at = end + 1
        else:
            made.append(character)
    return tuple(made)


def _set(inside: str) -> _Set:
    """``a-z_`` or ``!a-z`` as ranges."""
    negated = inside[0] in "!^"
    inside = inside[1:] if negated else inside
    ranges: list[tuple[str, str]] = []
    while inside:
        if len(inside) >= 3 and inside[1] == "-":
            ranges.append((inside[0], inside[2]))
            inside = inside[3:]
        else:
            ranges.append((inside[0], inside[0]))
            inside = inside[1:]
    return negated, tuple(ranges)


def _takes(token: _Token, character: str) -> bool:
    if isinstance(token, str):
        return token == character
    negated, ranges = token
    return any(low <= character <= high for low, high in ranges) != negated


def _matches_name(pattern: _Segment, name: str) -> bool:
    """Whether ``name`` matches ``pattern``. After a mismatch only the latest `*` is extended."""
    at = index = 0
    star = mark = -1
    while index < len(name):
        if at < len(pattern) and pattern[at] != _ANY and _takes(pattern[at], name[index]):
            at, index = at + 1, index + 1
        elif at < len(pattern) and pattern[at] == _ANY:
            star, mark = at, index
            at += 1
        elif star >= 0:
            mark += 1
            at, index = star + 1, mark
        else:
            return False
    return all(token == _ANY for token in pattern[at:])


def _matches_path(pattern: tuple[_Segment, ...], parts: list[str]) -> bool:
    """The same for whole paths. ``**`` matches any number of folders, also none; at the end it needs at least one name.
    """
    at = index = 0
    star = mark = -1
    while index < len(parts):
        if at < len(pattern) and pattern[at] is not _ANY_FOLDERS and _matches_name(pattern[at], parts[index]):
            at, index = at + 1, index + 1
        elif at < len(pattern) and pattern[at] is _ANY_FOLDERS:
            if at == len(pattern) - 1:
                return True  # something is left for `**` to match
            star, mark = at, index
            at += 1
        elif star >= 0:
            mark += 1
            at, index = star + 1, mark
        else:
            return False
    return at == len(pattern)
