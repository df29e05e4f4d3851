"""The modules that plugin code may import. The zygote loads them once, because nothing can be read after confinement.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterable

from apex_exec.errors import ConfigError

ALLOWED: tuple[str, ...] = tuple("""
    __future__ abc array ast asyncio base64 binascii bisect calendar cmath codecs collections collections.abc colorsys
    concurrent.futures contextlib contextvars copy copyreg csv
    dataclasses datetime decimal difflib email.message email.utils
    enum errno fnmatch fractions functools gc graphlib gzip hashlib heapq hmac html html.entities html.parser http
    importlib importlib.resources inspect io ipaddress itertools json keyword linecache locale logging math numbers
    operator os os.path pathlib posixpath pprint queue quopri random re reprlib secrets shlex statistics string
    stringprep struct sys textwrap threading time timeit tomllib traceback types typing unicodedata unittest
    unittest.mock urllib.parse uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo
    msgspec workers
""".split())
"""What a plugin may import besides its own modules. Importing anything else raises an ImportError that says so."""

HIDDEN: tuple[str, ...] = tuple("""
    _strptime _pydatetime encodings.ascii encodings.base64_codec encodings.charmap encodings.cp1252 encodings.cp437
    encodings.hex_codec encodings.idna encodings.iso8859_1 encodings.iso8859_15 encodings.latin_1 encodings.punycode
    encodings.raw_unicode_escape encodings.rot_13 encodings.unicode_escape encodings.utf_16 encodings.utf_16_be
    encodings.utf_16_le encodings.utf_32 encodings.utf_32_be encodings.utf_32_le encodings.utf_7 encodings.utf_8
    encodings.utf_8_sig encodings.zlib_codec xml.etree.ElementPath xml.parsers.expat pyexpat _json _csv _decimal difflib
    importlib.readers importlib.resources.readers importlib.resources._adapters concurrent.futures.thread
    email.generator email.parser email.policy unittest._log unittest.async_case tracemalloc _suggestions _tokenize
    _md5 _sha1 _sha2 _sha256 _sha512 _sha3
""".split())
"""Modules that allowed modules import only when first used. They are also loaded if this Python has them.

C code imports on behalf of the frame that called it (``strptime``), so a plugin may import these as well.
"""

REFUSED: tuple[str, ...] = ("ctypes", "_ctypes", "multiprocessing", "multiprocess", "_quickjs")
"""Modules that the zygote itself needs; a plugin has them only if ``sandbox.extra_modules`` names them."""


def check_modules(names: Iterable[str]) -> None:
    """Raises ConfigError for a name in ``sandbox.extra_modules`` if this Python has no such module.

    A module that exists may still fail to load; ``zygote_link.try_zygote`` finds that out.
    """
    for name in names:
        try:
            found = all(part.isidentifier() for part in name.split(".")) and importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):  # its parent package does not exist, or the module has no spec
            found = False
        except Exception:  # its parent package fails to import; the process that loads it reports how
            found = True
        if not found:
            near = difflib.get_close_matches(name, sys.stdlib_module_names, 1)
            raise ConfigError(f"sandbox.extra_modules: this Python has no module {name!r}"
                              + (f"; did you mean {near[0]}?" if near else "; install it beside apex-exec"))
