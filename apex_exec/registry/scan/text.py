"""Rules on characters: those that a reader of the source cannot see, or would mistake for others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping

from apex_exec.registry.scan.findings import Finding, finding

_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_INVISIBLE = re.compile("[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200d\u2060-\u2064\u206a-\u206f"
                        "\u3164\ufeff\uffa0\ufff9-\ufffb]")
_HIDDEN_RUN = re.compile("[\ufe00-\ufe0f\U000e0000-\U000e007f\U000e0100-\U000e01ef\u200b-\u200d\u2060-\u2064]{16,}")
"""Variation selectors, tags and zero-width characters in a row can carry whole hidden texts; flags and emoji need at
most six."""
_LOOKS_LIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u04cf\u03bf\u03b1\u03bd\u0410\u0412\u0415"
    "\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425", "aeopcyxijsdhloavABEKMHOPCTX")
"""Cyrillic and Greek letters, each with the Latin letter that it looks like (the plain cases of Unicode TR 39)."""
NAMES_MAX = 20_000
"""How many different identifiers of one file are compared."""
LINES_MAX_REPORTED = 20


def scan_text(path: str, text: str) -> Iterator[Finding]:
    """Findings about single characters, in any kind of file."""
    reported = 0
    for number, line in enumerate(text.split("\n"), 1):
        if line.isascii():
            continue
        if match := _BIDI.search(line):
            yield finding("bidirectional-text", path, number, f"the directional control U+{ord(match[0]):04X}")
            reported += 1
        if match := _HIDDEN_RUN.search(line):
            yield finding("hidden-payload", path, number, f"{len(match[0])} invisible characters in a row")
            reported += 1
        elif match := _INVISIBLE.search(line):
            yield finding("invisible-character", path, number, f"the invisible character U+{ord(match[0]):04X}")
            reported += 1
        if reported >= LINES_MAX_REPORTED:
            return


def scan_names(path: str, names: Mapping[str, int], well_known: Collection[str], becomes: str) -> Iterator[Finding]:
    """Findings about the identifiers of a file (name → line): those that become an ASCII name when their characters are
    normalised, that mix scripts, or that look like another name. ``becomes`` says what a language makes of the first.
    """
    for name, line in names.items():
        if name.isascii():
            continue
        read, posed = unicodedata.normalize("NFKC", name), name.translate(_LOOKS_LIKE)
        if read != name and read.isascii():
            yield finding("look-alike", path, line, f"the name {name!a} is {becomes} {read!a}")
        elif posed.isascii() and (posed in names or posed in well_known):
            yield finding("look-alike", path, line, f"the name {name!a} poses as {posed!a}")
        elif mixed := _mixed(name):
            yield finding("look-alike", path, line, f"the name {name!a} mixes {mixed}")


def _mixed(name: str) -> str:
    scripts = {unicodedata.name(char, "?").split(" ")[0] for char in name if char.isalpha()}
    odd = scripts & {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}
    return f"LATIN and {min(odd)} letters" if odd and "LATIN" in scripts else ""
