"""What the supervisor and the process that checks results say to each other."""

from __future__ import annotations

from typing import Any

import msgspec


class Check(msgspec.Struct, array_like=True, tag="check"):
    """To the process: one result. ``denied`` is why nothing may be rendered, "" if something may; ``components`` are
    what may."""

    number: int
    hook: str
    result: bytes
    denied: str
    components: list[str]


class Checked(msgspec.Struct, array_like=True, tag="checked"):
    """From the process: what was found, and the CPU time that it took. ``code`` is "" if the result may be sent."""

    number: int
    code: str
    message: str
    details: dict[str, Any]
    cpu_ns: int
