"""URLs, hosts, methods and headers of a plugin's request. One parser: we connect to exactly what was checked here.

``yarl`` parses once, and the resulting object goes to aiohttp; nobody parses the text again. Constructs on which
parsers are known to disagree (backslashes, white space, other alphabets, user names before the host) are refused, not
interpreted.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from yarl import URL

from apex_exec.gateway.failure import ApiFailure

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))
URL_BYTES_MAX = 8192
HEADER_BYTES_MAX = 16 * 1024
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*@")
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IPV6 = re.compile(r"[0-9a-f:.]{2,45}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[\x20-\x7e\t]*")
OURS = frozenset((
    "host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect",
    "accept-encoding", "http2-settings", "via", "forwarded",
    "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-forwarded-for", "true-client-ip",
    "cf-connecting-ip", "cf-connecting-ipv6", "fastly-client-ip"))
"""Headers that a plugin may not set: they belong to the connection or to us, or proxies use them to name the client."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse(text: str) -> URL:
    """The URL in ``text``. Raises ApiFailure ``url_invalid``."""
    if len(text) > URL_BYTES_MAX or not _PRINTABLE.fullmatch(text) or "\\" in text:
        raise _invalid("a URL is printable ASCII without spaces and backslashes (percent-encoded, host in punycode)")
    if _USER.match(text):
        raise _invalid("a URL must not contain a user name or a password; send a header")
    try:
        url = URL(text)
        port = url.port
    except (ValueError, TypeError):
        raise _invalid("the URL cannot be parsed") from None
    return check(url, port)


def check(url: URL, port: int | None) -> URL:
    """``url``, if it is an http or https URL with a plain host. Raises ApiFailure ``url_invalid``."""
    if url.scheme not in _DEFAULT_PORTS:
        raise _invalid("a URL must begin with http:// or https://")
    if url.raw_user is not None or url.raw_password is not None:
        raise _invalid("a URL must not contain a user name or a password; send a header")
    host = url.raw_host or ""
    if not (_HOST.fullmatch(host) or (":" in host and _IPV6.fullmatch(host))):
        raise _invalid("the URL's host is not a plain name or IP address")
    if port is None or not 0 < port < 65536:
        raise _invalid("the URL's port is not valid; use 1 to 65535")
    return url.with_fragment(None)


def redirected(url: URL, location: str) -> URL:
    """The target of a redirect from ``url``. Raises ApiFailure ``url_invalid``, also for a step from https to http.

    Bytes of other alphabets in the path and query are percent-encoded as they arrived, as browsers do.
    """
    path = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*:)?(//[^/?#]*)?", location)
    begun = path.end() if path is not None else 0
    location = location[:begun] + re.sub(r"[^\x00-\x7f]+", lambda found: quote(
        found[0].encode("utf-8", "surrogateescape")), location[begun:])
    if (len(location) > URL_BYTES_MAX or not _PRINTABLE.fullmatch(location) or "\\" in location
            or _USER.match(location)):
        raise _invalid("the server redirects to an address that is not a plain URL")
    try:
        target = url.join(URL(location))
        port = target.port
    except (ValueError, TypeError):
        raise _invalid("the server redirects to a URL that cannot be parsed") from None
    target = check(target, port)
    if url.scheme == "https" and target.scheme == "http":
        raise _invalid("the server redirects from https to http, which is refused")
    return target


def is_listed(host: str, port: int, scheme: str, patterns: tuple[str, ...], *, any_port: bool) -> bool:
    """Whether ``patterns`` name this host. ``*.example.org`` matches every name below it but not itself. ``host:port``
    matches one port; without a port, only the scheme's default port matches, or every port if ``any_port``."""
    default = None if any_port else _DEFAULT_PORTS[scheme]
    return any(is_named(host, port, pattern, default) for pattern in patterns)


def is_named(host: str, port: int, pattern: str, default_port: int | None = None) -> bool:
    """Whether ``pattern`` names this host; without a port in it, any port, or ``default_port`` alone."""
    name, found, digits = pattern.lower().rpartition(":") if re.search(r":\d+$", pattern) else (pattern.lower(), "", "")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if (int(digits) if found else default_port) not in (port, None):
        return False
    return host == name or (name.startswith("*.") and host.endswith(name[1:]) and len(host) > len(name) - 1)


def check_headers(method: str, headers: dict[str, str]) -> dict[str, str]:
    """The plugin's headers under the names that it gave. Raises ApiFailure ``url_invalid``."""
    if method not in METHODS:
        raise _invalid(f"this method is not supported; the methods are {', '.join(sorted(METHODS))}")
    size = 0
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _invalid(f"header {name[:64]!r}: its name must be a token, and its value one line of ASCII")
        if name.lower() in OURS or name.lower().startswith(("proxy-", "sec-", "x-forwarded-")):
            raise _invalid(f"a plugin may not set the header {name!r}")
        size += len(name) + len(value) + 4
    if size > HEADER_BYTES_MAX:
        raise ApiFailure("too_large", f"the headers have more than {HEADER_BYTES_MAX} bytes, which is the limit")
    return headers


def _invalid(message: str) -> ApiFailure:
    return ApiFailure("url_invalid", message)
