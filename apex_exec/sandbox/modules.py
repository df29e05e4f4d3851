"""The modules that plugin code may import. The zygote loads them once, because nothing can be read after confinement.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterable

from apex_exec.errors import ConfigError

ALLOWED: tuple[str, ...] = tuple("""
    __future__ _ast _collections_abc _thread abc argparse array ast asyncio asyncio.events asyncio.exceptions
    asyncio.locks asyncio.queues asyncio.tasks atexit base64 binascii bisect builtins bz2 calendar cmath cmd code codecs
    codeop collections collections.abc colorsys concurrent.futures configparser contextlib contextvars copy copyreg csv
    dataclasses datetime decimal difflib dis email email.base64mime email.charset email.contentmanager email.encoders
    email.errors email.feedparser email.generator email.header email.headerregistry email.iterators email.message
    email.mime.application email.mime.base email.mime.message email.mime.multipart email.mime.nonmultipart
    email.mime.text email.parser email.policy email.quoprimime email.utils encodings encodings.aliases encodings.idna
    enum errno filecmp fileinput fnmatch fractions functools gc genericpath getopt getpass gettext glob graphlib gzip
    hashlib heapq hmac html html.entities html.parser http http.client http.cookiejar http.cookies
    importlib importlib.abc importlib.machinery importlib.metadata importlib.resources importlib.resources.abc
    importlib.util inspect io ipaddress itertools json json.decoder json.encoder json.scanner keyword linecache locale
    logging logging.config logging.handlers lzma marshal math mimetypes netrc ntpath nturl2path numbers opcode operator
    optparse os os.path pathlib pickle pickletools pkgutil platform plistlib posix posixpath pprint pwd pydoc queue
    quopri random re re._casefix re._compiler re._constants re._parser reprlib runpy sched secrets shelve shlex shutil
    stat statistics string stringprep struct symtable sys sysconfig tarfile tempfile textwrap threading time timeit
    token tokenize tomllib traceback types typing unicodedata unittest unittest.mock urllib urllib.error urllib.parse
    urllib.request urllib.response urllib.robotparser uuid warnings weakref wsgiref.headers wsgiref.util
    xml xml.dom xml.dom.domreg xml.dom.expatbuilder xml.dom.minicompat xml.dom.minidom xml.dom.NodeFilter
    xml.dom.pulldom xml.dom.xmlbuilder xml.etree xml.etree.ElementInclude xml.etree.ElementPath xml.etree.ElementTree
    xml.parsers xml.parsers.expat xml.parsers.expat.errors xml.parsers.expat.model xml.sax xml.sax._exceptions
    xml.sax.expatreader xml.sax.handler xml.sax.saxutils xml.sax.xmlreader zipfile zipimport zlib zoneinfo
    msgspec workers
""".split())
"""What a plugin may import besides its own modules. Importing anything else raises an ImportError that says so.

Most of a library's imports are here, even if what a module does needs a file, a thread or a socket: a library asks for
many modules that the functions in use never touch, and the jail answers those that do.
"""

WITHHELD: dict[str, str] = {
    "ctypes": "a plugin is plain Python, and no library can be loaded after the jail is shut",
    "curses": "a plugin has no terminal",
    "dbm": "a plugin has no files: keep data with context.api.storage",
    "ensurepip": "nothing is installed inside a plugin: vendor a package with `apex-exec plugin add`",
    "fcntl": "a plugin has no files to lock",
    "ftplib": "a plugin has no network: use context.api.fetch",
    "grp": "a plugin has no users and groups of the machine",
    "http.server": "a plugin serves nothing: it answers hooks",
    "imaplib": "a plugin has no network: use context.api.fetch",
    "mmap": "a plugin has no files to map",
    "multiprocessing": "a plugin starts no processes",
    "poplib": "a plugin has no network: use context.api.fetch",
    "pty": "a plugin has no terminal and starts no processes",
    "readline": "a plugin has no terminal",
    "resource": "a plugin's limits are set from outside, in the manifest",
    "select": "a plugin has no descriptors to wait for: use asyncio, or context.api",
    "selectors": "a plugin has no descriptors to wait for: use asyncio, or context.api",
    "signal": "signals belong to the worker; a call's time is limited by its deadline (context.remaining_ms)",
    "smtplib": "a plugin has no network: use context.api.fetch",
    "socket": "a plugin has no network: use context.api.fetch",
    "socketserver": "a plugin has no network: it answers hooks",
    "sqlite3": "a plugin has no files: use context.api.query, or context.api.storage",
    "ssl": "a plugin has no network: use context.api.fetch",
    "subprocess": "a plugin starts no processes",
    "syslog": "a plugin logs with context.log",
    "telnetlib": "a plugin has no network: use context.api.fetch",
    "termios": "a plugin has no terminal",
    "tkinter": "a plugin has no screen: return widgets",
    "tty": "a plugin has no terminal",
    "turtle": "a plugin has no screen: return widgets",
    "venv": "nothing is installed inside a plugin: vendor a package with `apex-exec plugin add`",
    "webbrowser": "a plugin has no screen: return widgets",
    "xmlrpc": "a plugin has no network: use context.api.fetch",
}
"""Why modules of the standard library are kept from plugins that might look for them. What is neither here nor in
ALLOWED is for developers' machines (``idlelib``, ``pdb``, ``lib2to3``, ``distutils`` …), or nobody has asked for it."""

HIDDEN: tuple[str, ...] = tuple("""
    _strptime _pydatetime encodings.ascii encodings.base64_codec encodings.charmap encodings.cp1252 encodings.cp437
    encodings.hex_codec encodings.idna encodings.iso8859_1 encodings.iso8859_15 encodings.latin_1 encodings.punycode
    encodings.raw_unicode_escape encodings.rot_13 encodings.unicode_escape encodings.utf_16 encodings.utf_16_be
    encodings.utf_16_le encodings.utf_32 encodings.utf_32_be encodings.utf_32_le encodings.utf_7 encodings.utf_8
    encodings.utf_8_sig encodings.zlib_codec xml.etree.ElementPath xml.parsers.expat pyexpat _json _csv _decimal difflib
    importlib.readers importlib.resources.readers importlib.resources._adapters importlib.metadata._adapters
    concurrent.futures.thread
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
