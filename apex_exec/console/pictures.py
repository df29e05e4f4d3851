"""A picture of a plugin on its way to a browser: nothing in it can run.

The daemon has checked that an SVG only draws. Should it be wrong, the answer still forbids scripts, styles and whatever
else a picture could load, in a frame of its own without an origin; and a browser that is led to the SVG itself saves it
instead of showing it.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

TYPES = {"image/png": ("inline", "png"), "image/svg+xml": ("attachment", "svg")}
CSP = "default-src 'none'; sandbox; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
KEPT = "private, max-age=86400, immutable"
"""The address has the bundle's digest, so another picture has another address."""


def picture(found: dict[str, Any]) -> web.Response:
    """The answer to what ``plugin.picture`` and ``market.picture`` give."""
    how, ending = TYPES[found["type"]]
    return web.Response(body=found["bytes"], content_type=found["type"], headers={
        "Content-Security-Policy": CSP, "Cache-Control": KEPT,
        "Content-Disposition": f'{how}; filename="picture.{ending}"'})
