"""Whether a page is made of our own markup alone: what a plugin wrote shows as text, or the page is refused."""

from __future__ import annotations

import re
from html.parser import HTMLParser

TAGS = frozenset("""html head meta title link script body a header nav form input span b small button main p h1 h2 h3
    footer svg path rect polyline section div table thead tbody tr th td dl dt dd ul ol li label select option details
    summary pre code time figure figcaption img article textarea fieldset legend tfoot colgroup col""".split())
"""Every element that our templates have. A frame or an object is none of them."""
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
MARK = "zzmark"
"""Is in the name of every element, attribute and scheme that the attacks try to bring in."""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.texts: list[str] = []
        self.text_of_scripts = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in TAGS:
            self.problems.append(f"<{tag}>")
        if tag == "script" and given.get("src") != "/static/console.js":
            self.problems.append(f"a script {given}")
        for name, value in given.items():
            if name.startswith("on") or name == "style" or MARK in name:
                self.problems.append(f"<{tag} {name}>")
            if name in ("href", "src", "action", "formaction") and not (
                    value and (value.startswith(("/", "#"))) and not value.startswith("//")):
                self.problems.append(f"<{tag} {name}={value}>")
        if len(given) != len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.problems.append(f"<!--{data[:40]}-->")


def text_of(page: str) -> str:
    """What a reader sees of a page. Fails if anything in it is not ours."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert not reader.problems, reader.problems
    assert not UNSEEN.search(page), UNSEEN.findall(page)[:5]
    return "".join(reader.texts)
