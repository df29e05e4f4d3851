"""Attacks that no layer stops but the supervisor and the worker's own code: they run, and harm nobody else.

``codes`` are the answers that the caller may get (``ok`` for a result). That the attack ran is its control: each ends
in a way that an honest hook does not, or leaves ``ran`` as its result.
"""

from __future__ import annotations

from typing import NamedTuple


class Contained(NamedTuple):
    """One row. ``log``: what the daemon's log may not hold afterwards."""

    name: str
    category: str
    codes: tuple[str, ...]
    code: str
    log: str = ""


VIOLATION = ("WORKER_VIOLATION",)
T, P, X = "transport", "Python", "exhaustion"
FRAME = '''
def frame(body):
    size = len(body)
    return bytes((0, size)) + body if size < 256 else b"\\x02" + size.to_bytes(8, "big") + body


def seq():
    for item in gc.get_objects():
        if type(item).__name__ == "Worker" and hasattr(item, "seq"):
            return item.seq
'''

CONTAINED: tuple[Contained, ...] = (
    Contained("raw bytes on the link", T, VIOLATION, "os.write(3, b'\\xff' * 64)\ntime.sleep(5)"),
    Contained("a second greeting", T, VIOLATION, "os.write(3, b'\\xff' + bytes(63))\ntime.sleep(5)"),
    Contained("a frame said to be huge", T, VIOLATION,
              "os.write(3, b'\\x02' + (2**62).to_bytes(8, 'big'))\ntime.sleep(5)"),
    Contained("an endless multi-part message", T, VIOLATION, "os.write(3, b'\\x01\\x01x' * 1000)\ntime.sleep(5)"),
    Contained("a message of no kind", T, VIOLATION,
              "os.write(3, frame(msgspec.msgpack.encode(['root', 1])))\ntime.sleep(5)"),
    Contained("deep-nested MessagePack", T, ("WORKER_VIOLATION", "INVALID_OUTPUT"),
              "os.write(3, frame(msgspec.msgpack.encode(['reply', seq()])[:-1] + b'\\0' + b'\\x91' * 5000))\n"
              "time.sleep(5)"),
    Contained("a reply to an earlier call", T, VIOLATION,
              "os.write(3, frame(msgspec.msgpack.encode(['reply', seq() - 1, None, 0])))\ntime.sleep(5)"),
    Contained("a reply to a later call", T, VIOLATION,
              "os.write(3, frame(msgspec.msgpack.encode(['reply', seq() + 1, None, 0])))\ntime.sleep(5)"),
    Contained("the same reply twice", T, ("ok",),
              "answer = frame(msgspec.msgpack.encode(['reply', seq(), {'result': 'ran', 'metadata': {}}, 0]))\n"
              "os.write(3, answer + answer)\ntime.sleep(5)"),
    Contained("a call that ran said to be skipped", T, VIOLATION,
              "os.write(3, frame(msgspec.msgpack.encode(['skipped', seq()])))\ntime.sleep(5)"),
    Contained("ready once more", T, VIOLATION,
              "os.write(3, frame(msgspec.msgpack.encode(['ready', 'x', '1.0.0', [], [], False])))\ntime.sleep(5)"),
    Contained("another jail report", T, VIOLATION,
              "os.write(3, frame(msgspec.msgpack.encode(['booted', [['seccomp', 'active', 0, '']], 0])))\n"
              "time.sleep(5)"),
    Contained("a pong that nobody asked for", T, VIOLATION,
              "os.write(3, frame(msgspec.msgpack.encode(['pong', 7])))\ntime.sleep(5)"),
    Contained("a report of its tests", T, VIOLATION,
              "os.write(3, frame(msgspec.msgpack.encode(['tested', 1, 0, [], {}, False])))\ntime.sleep(5)"),
    Contained("log frames without end", T, VIOLATION,
              "line = frame(msgspec.msgpack.encode(['log', 'info', 'x']))\nwhile True:\n    os.write(3, line * 50)"),
    Contained("a failure to load reported without end", T, VIOLATION,
              "line = frame(msgspec.msgpack.encode(['failed', 'load', 'seccomp', 'E', 'forged-failure', '']))\n"
              "while True:\n    os.write(3, line * 50)", "x: load failed: seccomp: forged-failure"),
    Contained("API calls for an answered call without end", T, VIOLATION,
              "link = select.poll()\nlink.register(3, select.POLLIN | select.POLLOUT)\nwhile True:\n"
              "    ready = link.poll()[0][1]\n    if ready & select.POLLOUT:\n"
              "        os.write(3, frame(msgspec.msgpack.encode(['api', seq() - 1, 1, 'emit', {'event': 'x'}])))\n"
              "    if ready & select.POLLIN:\n        os.read(3, 1 << 20)"),
    Contained("a line while nothing runs", T, ("ok",),
              "line = frame(msgspec.msgpack.encode(['log', 'info', 'said-out-of-turn']))\n"
              "answer = frame(msgspec.msgpack.encode(['reply', seq(), {'result': 'ran', 'metadata': {}}, 0]))\n"
              "os.write(3, answer + line)\ntime.sleep(5)", "x: said-out-of-turn"),
    Contained("API calls without end", T, ("WORKER_VIOLATION", "RATE_LIMITED", "TIMEOUT", "PLUGIN_ERROR"),
              "params = {'event': 'x', 'payload': None}\nfor n in range(1, 100_000):\n"
              "    os.write(3, frame(msgspec.msgpack.encode(['api', seq(), n, 'emit', params])))"),
    Contained("a result that is too large", T, ("INVALID_OUTPUT",), "return 'x' * 1_100_000"),
    Contained("a result of a million lists", T, ("INVALID_OUTPUT",),
              "head = msgspec.msgpack.encode(['reply', seq(), None, 0])[:-2]\n"
              "os.write(3, frame(head + b'\\xdd\\0\\x0f\\x42\\x40' + b'\\x90' * 1_000_000 + b'\\0'))\ntime.sleep(5)"),
    Contained("a result of lists in lists", T, ("INVALID_OUTPUT",),
              "head = msgspec.msgpack.encode(['reply', seq(), None, 0])[:-2]\n"
              "os.write(3, frame(head + b'\\xdc\\x4e\\x20' + (b'\\x91' * 45 + b'\\xc0') * 20_000 + b'\\0'))\n"
              "time.sleep(5)"),
    Contained("effects of a million lists", T, ("WORKER_VIOLATION", "TIMEOUT"),
              "for n in range(1, 100):\n    one = msgspec.msgpack.encode(['api', seq(), n, 'emit', None])[:-1]\n"
              "    os.write(3, frame(one + b'\\x82\\xa5event\\xa1x\\xa7payload\\xdd\\0\\3\\x0d\\x40'"
              " + b'\\x90' * 200_000))\ntime.sleep(5)"),
    Contained("the link closed", T, ("WORKER_CRASHED", "WORKER_VIOLATION", "TIMEOUT"), "os.close(3)\ntime.sleep(5)"),
    Contained("a million marks", T, ("ok", "TIMEOUT"),
              "try:\n    while True:\n        os.write(4, bytes(65536))\nexcept BlockingIOError:\n    return 'ran'"),
    Contained("spin", X, ("TIMEOUT",), "while True:\n    pass"),
    Contained("spin in C", X, ("TIMEOUT",), "import re\nre.match('(a+)+$', 'a' * 40 + 'b')"),
    Contained("swallow every exception", X, ("TIMEOUT",),
              "while True:\n    try:\n        time.sleep(1)\n    except BaseException:\n        pass"),
    Contained("ignore every signal", X, ("TIMEOUT",),
              "for number in range(1, 64):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n"
              "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass"),
    Contained("the stack overrun", X, ("WORKER_CRASHED", "PLUGIN_ERROR", "MEMORY_LIMIT"),
              "sys.setrecursionlimit(10**8)\ndef deeper(n):\n    return [deeper(n + 1)]\ndeeper(0)"),
    Contained("a flood of output", X, ("ok", "TIMEOUT"), "for n in range(50_000):\n    print('flood', n)\nreturn 'ran'",
              "flood 40000"),
    Contained("one endless line", X, ("ok", "TIMEOUT"),
              "for n in range(1000):\n    sys.stdout.write('y' * 10_000)\nreturn 'ran'",
              "y" * 20_000),
    Contained("control characters in the log", P, ("ok",),
              "print('\\x1b[2J\\x1b]0;owned\\x07\\r\\x9b')\nreturn 'ran'", "\x1b"),
    Contained("a forged log line", P, ("ok",),
              "print('x\\r\\n2026-01-01 00:00:00,000 ERROR forged-by-plugin')\nreturn 'ran'",
              "\n2026-01-01 00:00:00,000 ERROR forged-by-plugin"),
    Contained("_exit in the middle", P, ("WORKER_CRASHED",), "os._exit(7)"),
    Contained("SystemExit", P, ("PLUGIN_ERROR",), "sys.exit('bye')"),
    Contained("KeyboardInterrupt", P, ("PLUGIN_ERROR",), "raise KeyboardInterrupt"),
    Contained("GeneratorExit", P, ("PLUGIN_ERROR",), "raise GeneratorExit"),
    Contained("an exception whose text kills", P, ("PLUGIN_ERROR",),
              "class Bad(Exception):\n    def __str__(self):\n        raise SystemExit\n    __repr__ = __str__\n"
              "raise Bad"),
    Contained("an exception that lies about its class", P, ("PLUGIN_ERROR",),
              "class Bad(Exception):\n    @property\n    def __class__(self):\n        raise SystemExit\nraise Bad"),
    Contained("a name of a megabyte", P, ("PLUGIN_ERROR",), "raise type('E' * 1_000_000, (Exception,), {})"),
    Contained("a cause without end", P, ("PLUGIN_ERROR",),
              "a, b = ValueError(), KeyError()\na.__cause__, b.__cause__ = b, a\nraise a"),
    Contained("a value that lies about its class", P, ("INVALID_OUTPUT", "PLUGIN_ERROR"),
              "class Liar:\n    __class__ = dict\n    def items(self):\n        raise SystemExit\nreturn Liar()"),
    Contained("a value with __reduce__", P, ("INVALID_OUTPUT",),
              "class Pickle:\n    def __reduce__(self):\n        return os.system, ('true',)\nreturn Pickle()"),
    Contained("a value that holds itself", P, ("INVALID_OUTPUT",), "loop = []\nloop.append(loop)\nreturn loop"),
    Contained("an integer beyond all", P, ("INVALID_OUTPUT",), "return 2**200"),
    Contained("stdout replaced", P, ("ok",),
              "class Out:\n    def write(self, _):\n        raise SystemExit\nsys.stdout = Out()\nreturn 'ran'"),
    Contained("imports poisoned", P, ("ok",),
              "sys.meta_path.insert(0, None)\nsys.modules['json'] = None\nsys.modules['msgspec'] = None\nreturn 'ran'"),
    Contained("the recursion limit lowered", P, ("ok", "PLUGIN_ERROR", "WORKER_CRASHED", "INVALID_OUTPUT"),
              "sys.setrecursionlimit(15)\nreturn 'ran'"),
    Contained("something for the exit", P, ("ok",),
              "import atexit\natexit.register(print, 'left-behind-at-exit')\nreturn 'ran'",
              "left-behind-at-exit"),
    Contained("a search for the daemon's secrets", P, ("ok",),
              "needle = 'APEX-DAEMON-' + 'SECRET'\n"
              "found = [x for x in gc.get_objects() if isinstance(x, dict) and any(needle in str(v)[:9999] for"
              " v in x.values()\n"
              "         if isinstance(v, str) and v is not needle)]\n"
              "stack = [v for v in os.environ.values() if needle in v]\n"
              "return 'leak' if stack or any('value-of' in str(d) for d in found) else 'ran'"),
)
