"""What of the plugins' API is to end: announced here, and warned of by the scan until it is gone.

The guide promises authors that what plugin API 1 offers works for 24 months after its end was announced, and that
`plugin validate` warns of it at least one minor version before. So an entry is written with the release that announces
the end, and is taken out with the release that ends it. ``tests/catalogue`` holds each entry to the promise.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["hook", "method", "permission"]


class Ending(Struct, frozen=True):
    """The plugin API's version that ``announced`` the end, with its day ``on`` (ISO 8601); the version ``until`` which
    it is there; and what an author uses ``instead``, as a sentence."""

    announced: str
    on: str
    until: str
    instead: str


ENDINGS: dict[tuple[Kind, str], Ending] = {}
"""By kind and name, as the catalogue has them."""


def warning_of(kind: Kind, name: str) -> str:
    """The sentence for authors about something that is to end; "" if it stays."""
    ending = ENDINGS.get((kind, name))
    if ending is None:
        return ""
    announced = f"announced with {ending.announced} on {ending.on}"
    return f"the {kind} {name} ends with plugin API {ending.until} ({announced}): {ending.instead}"
