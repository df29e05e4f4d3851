"""Fetches an index and bundles from a folder, ``file://`` or ``http(s)://``, with limits on bytes and time. Blocks.

Nothing that is fetched here is trusted: ``index.py`` checks it.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from apex_exec.errors import Code, Refusal

SECONDS_MAX = 30
"""The limit for each wait on the peer; a whole file may take four times as long."""
STEP_BYTES = 65536


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect may not leave http(s): a mirror must not name a file of this machine."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]  # as inherited
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.URLError(f"a redirect to {newurl[:100]!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(place: str, name: str, bytes_max: int, progress: Callable[[int], None] = lambda _bytes: None) -> bytes:
    """The file ``name`` under ``place`` (a folder or a URL), at most ``bytes_max``.

    ``progress`` is called with the number of bytes so far.

    Raises Refusal: place_invalid, not_fetched, too_large.
    """
    return _fetch(_url(place, name), bytes_max, progress)


def fetch_file(place: str, bytes_max: int) -> bytes:
    """The one file at ``place`` (a path or a URL), at most ``bytes_max``. Raises Refusal as ``fetch`` does."""
    scheme = urllib.parse.urlsplit(place).scheme
    if scheme not in ("", "file", "http", "https"):
        raise Refusal("place_invalid", f"{place[:100]!r} is neither a path nor a file://, http:// or https:// URL",
                      code=Code.INVALID_INPUT)
    return _fetch(place if scheme else Path(place).absolute().as_uri(), bytes_max, lambda _bytes: None)


def _fetch(url: str, bytes_max: int, progress: Callable[[int], None]) -> bytes:
    try:
        opener = urllib.request.build_opener(_SafeRedirects)
        with opener.open(urllib.request.Request(url), timeout=SECONDS_MAX) as answer:
            data, end = bytearray(), time.monotonic() + 4 * SECONDS_MAX
            while chunk := answer.read1(STEP_BYTES):  # what has arrived: read() waits for all of it
                data += chunk
                if len(data) > bytes_max:
                    raise Refusal("too_large", f"{url} is larger than {bytes_max} bytes")
                if time.monotonic() > end:
                    raise TimeoutError(f"it took over {4 * SECONDS_MAX} seconds")
                progress(len(data))
            return bytes(data)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Refusal("not_fetched", f"{url} cannot be fetched: {error}"[:300], code=Code.NOT_FOUND,
                      hint="check the address: market.index in the configuration, or --index") from None


def _url(place: str, name: str) -> str:
    scheme = urllib.parse.urlsplit(place).scheme
    if not place:
        raise Refusal("place_invalid", "no marketplace index is configured", code=Code.INVALID_INPUT,
                      hint="set market.index to a folder or URL")
    if scheme == "":
        return (Path(place).absolute() / name).as_uri()
    if scheme not in ("file", "http", "https"):
        raise Refusal("place_invalid",
                      f"{place[:100]!r}: an index must be a folder or a file://, http:// or https:// URL",
                      code=Code.INVALID_INPUT)
    return place.rstrip("/") + "/" + urllib.parse.quote(name)
