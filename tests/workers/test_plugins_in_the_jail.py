"""What plugin code may import, read and rely on in a real worker, and that what it leaves behind ends with its call."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import workers
from apex_exec.client import CallError, Client
from tests.support.daemon import USER, Daemon, write_plugin

HOOK = """

@plugin.hook("onActionExecute")
{define} act(context, params):
    return {{"result": {value}, "metadata": {{}}}}
"""


def plain(head: str, value: str) -> str:
    return head + HOOK.format(define="def", value=value)


PLUGINS: dict[str, str] = {
    "uses-modules": plain("import helper\nfrom vendored.deep import part\nimport vendored",
                          "[helper.NAME, part.here(), vendored.__name__, helper.entry() is plugin]"),
    "uses-data": plain("from importlib import resources\nimport pkgutil",
                       "[resources.files('vendored').joinpath('data.txt').read_text(),"
                       " pkgutil_free(), sorted(p.name for p in resources.files('vendored').iterdir())]")
    .replace("import pkgutil", "import vendored\ndef pkgutil_free():\n    return "
             "vendored.__loader__.get_data('uses-data/vendored/data.txt').decode()"),
    "looks-for-the-kernels": plain(
        "import sys, types\n"
        "REPLACED = ('open', 'stat', 'lstat', 'listdir', 'scandir', 'access', 'getcwd')\n"
        "def kept():\n"
        "    for name, module in sorted(sys.modules.items()):\n"
        "        holders = list(getattr(module, '__dict__', {}).values())\n"
        "        places = [module, *(v for v in holders if isinstance(v, type) and v.__module__ == name)]\n"
        "        for place in places if name not in ('posix', '_io') else ():\n"
        "            for key, value in list(getattr(place, '__dict__', {}).items()):\n"
        "                value = getattr(value, '__func__', value)\n"
        "                if isinstance(value, types.BuiltinFunctionType) and value.__name__ in REPLACED and (\n"
        "                        getattr(value.__self__, '__name__', '') in ('posix', '_io', 'io')) and name != 'os':\n"
        "                    yield f'{name}: {key}'", "list(kept())"),
    "uses-zones": plain("import zoneinfo, datetime",
                        "[str(datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo(z)).utcoffset()) for z in "
                        "('Europe/Berlin', 'America/New_York', 'Asia/Kolkata')] + "
                        "[len(zoneinfo.available_timezones()) > 400]"),
    "uses-random": plain("import random, secrets, uuid",
                         "[random.random(), secrets.token_hex(4), str(uuid.uuid4()), str(uuid.uuid1())]"),
    "uses-kernel": plain(
        "import asyncio, os, time, signal_free, threading, uuid\n"
        "CLOCKS = ('time', 'monotonic', 'perf_counter', 'process_time', 'thread_time')\n"
        "async def woken():\n    loop = asyncio.get_running_loop()\n    seen = loop.create_future()\n"
        "    loop.call_soon_threadsafe(seen.set_result, 'woken')\n    return await seen\n"
        "async def over_a_pair():\n    import socket\n    ours, theirs = socket.socketpair()\n"
        "    reader, writer = await asyncio.open_connection(sock=ours)\n    theirs.send(b'said\\n')\n"
        "    line = await reader.readline()\n    writer.close()\n    theirs.close()\n    return line.decode().strip()",
        "[[getattr(time, clock)() >= 0 and time.get_clock_info(clock).resolution < 1 for clock in CLOCKS],"
        " time.clock_gettime(time.CLOCK_BOOTTIME) > 0, time.clock_getres(time.CLOCK_MONOTONIC) < 1,"
        " time.sleep(0.01), os.cpu_count() > 0, os.getpid() == os.getpid(), os.get_blocking(3),"
        " os.get_inheritable(0), asyncio.run(woken()), asyncio.run(over_a_pair()),"
        " len({uuid.uuid1() for _ in range(50)}), os.read(0, 1).decode()]").replace("signal_free, ", ""),
    "sleeps": plain("import asyncio, time\nasync def nap():\n    await asyncio.sleep(0.5)",
                    "[time.sleep(0.5), asyncio.run(nap())]"),
    "uses-library": plain(
        "import json, re, decimal, datetime, csv, io, statistics, hashlib, hmac, base64, html, string, textwrap\n"
        "import urllib.parse, xml.etree.ElementTree as tree, fractions, difflib, calendar, zlib, gzip, unicodedata\n"
        "import tomllib, ipaddress",
        "[hashlib.sha256(b'x').hexdigest()[:8], datetime.datetime.strptime('2026-01-02', '%Y-%m-%d').day,"
        " 'ä'.encode('latin-1').hex(), 'a.b'.encode('idna').decode(), tree.fromstring('<a>1</a>').text,"
        " str(decimal.Decimal('1.10')), gzip.decompress(gzip.compress(b'z')).decode()]"),
    "uses-late-library": plain(
        "import email.message, random, json, os, traceback, warnings, unittest, codecs, xml.etree.ElementTree as tree\n"
        "def mail():\n    message = email.message.EmailMessage()\n    message['Subject'] = 'hällo'\n"
        "    message.set_content('x')\n    return b'Subject: ' in message.as_bytes()\n"
        "def seeded():\n    random.seed('a word')\n    return random.random() == random.Random('a word').random()\n"
        "def logged():\n    import logging\n    with unittest.TestCase().assertLogs('q', 'INFO') as found:\n"
        "        logging.getLogger('q').warning('w')\n    return len(found.records)\n"
        "def explained():\n    try:\n        json.dumsp\n    except AttributeError as error:\n"
        "        return 'dumsp' in traceback.format_exc()\n"
        "def warned():\n    with warnings.catch_warnings(record=True) as found:\n"
        "        warnings.simplefilter('always')\n"
        "        warnings.warn_explicit('w', ResourceWarning, 'f', 1, source=object())\n"
        "    return 'w' in str(found[0])\n"
        "def decoded():\n    names = ('utf-8-sig', 'latin-1', 'cp1252', 'UTF16')\n"
        "    return [codecs.lookup(name).name for name in names]\n",
        "[mail(), seeded(), logged(), explained(), warned(), decoded(), [hasattr(m, 'nope') for m in (json, os, tree)],"
        " unittest.IsolatedAsyncioTestCase.__name__]"),
    "forbidden": plain("", "None").replace("return {", "import subprocess\n    return {"),
    "missing": plain("", "None").replace("return {", "import requests\n    return {"),
    "threads": plain("import asyncio, threading", "0").replace(
        "    return {", "    threading.Thread(target=print).start()\n    return {"),
    "to-thread": "import asyncio" + HOOK.format(define="async def", value="await asyncio.to_thread(print)"),
    "resolves": "import asyncio" + HOOK.format(
        define="async def", value="await asyncio.get_running_loop().getaddrinfo('example.com', 80)"),
    "loops": "import asyncio" + HOOK.format(define="async def", value="await asyncio.sleep(0.01, 'slept')"),
    "no-loop": HOOK.format(define="async def", value="await Foreign()").replace(
        "@plugin", "class Foreign:\n    def __await__(self):\n        yield 1\n\n@plugin", 1),
    "leaves-tasks": "import asyncio\nseen = []\nasync def behind():\n    try:\n        await asyncio.sleep(30)\n"
                    "    except asyncio.CancelledError:\n        seen.append('cancelled')\n        raise\n"
                    + HOOK.format(define="async def", value="list(seen)").replace(
                        "    return {",
                        "    asyncio.ensure_future(behind())\n    await asyncio.sleep(0)\n    return {"),
    "tries": plain(
        "found = []\n"
        "for name in ('cryptography', 'subprocess', 'vendored.nothing', 'json.nothing', 'ssl'):\n"
        "    try:\n        __import__(name)\n    except ModuleNotFoundError as error:\n"
        "        found.append([error.name, str(error)[:len(name)] == name])\n"
        "try:\n    import cryptography.fernet as fernet\nexcept ModuleNotFoundError:\n    fernet = None\n"
        "def imported(name):\n    import importlib\n    try:\n        importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n        return error.name\n"
        "def asked(name):\n    import importlib\n    return importlib.util.find_spec(name)\n",
        "[found, fernet, imported('requests'), asked('requests'), asked('json') is None]"),
    "finds": plain("import vendored.moves as moves\nfrom vendored.moves import reduce\nimport vendored.moves.urllib",
                   "[moves.__name__, reduce(lambda a, b: a + b, [1, 2]), vendored.moves.urllib.__name__]"),
    "reads-its-files": plain(
        "import glob, os, pathlib, io, zipfile, vendored\nfrom pathlib import Path\n"
        "HERE = Path(__file__).parent\n"
        "def tried(function, *given):\n    try:\n        return function(*given)\n"
        "    except OSError as error:\n        return [type(error).__name__, str(error)]\n",
        "[(HERE / 'vendored' / 'data.txt').read_text(), open('vendored/data.txt', 'rb').read().decode(),"
        " os.path.isdir(HERE / 'vendored'), (HERE / 'nothing').exists(), Path('/etc/passwd').exists(),"
        " sorted(os.listdir(HERE)), [os.path.basename(p) for p in glob.glob(str(HERE / 'vendored' / 'd*'))],"
        " sorted(p.name for p in (HERE / 'vendored').rglob('*.py')), os.path.abspath('x'), str(HERE.resolve()),"
        " os.path.getsize(os.path.join(os.path.dirname(vendored.__file__), 'data.txt')),"
        " [entry.is_dir() for entry in os.scandir(HERE / 'vendored' / 'deep')],"
        " tried(open, '/etc/passwd'), tried(open, HERE / 'x', 'w'), tried(open, 'x', 'w'),"
        " tried(open, HERE / 'missing'), tried(os.listdir, '/'), tried(os.open, str(HERE / 'plugin.py'), 0)]"),
    "uses-metadata": plain(
        "import importlib.metadata as m, importlib.resources, pkgutil, inspect, sys, types\nimport vendored, pack\n"
        "sys.modules['made.here'] = sys.modules['made'] = types.ModuleType('made')\nimport made.here\n"
        "sys.path.append(__file__.rpartition('/')[0] + '/hidden')\nimport inner_module\n",
        "[m.version('pack'), m.version('PACK'), [d.metadata['Name'] for d in m.distributions()],"
        " pkgutil.get_data('pack', 'data.bin').decode(), [x.name for x in pkgutil.iter_modules(vendored.__path__)],"
        " inspect.getsource(pack.f), pack.__spec__.origin, inner_module.VALUE,"
        " [e.name for e in m.distribution('pack').entry_points], missing(),"
        " str(m.distribution('pack').locate_file('pack'))]")
    .replace("import inner_module\n", "import inner_module\ndef missing():\n    try:\n        m.version('no-such')\n"
             "    except m.PackageNotFoundError as error:\n        return error.name\n"),
    "names-wrongly": plain("", "None").replace("return {", "from workers import Nope\n    return {"),
    "names-wrongly-at-load": plain("from json import Nope", "None"),
    "raises": plain("def inner():\n    raise ValueError('deep down')  # the line that shows", "inner()"),
    "eats-memory": plain("held = []", "len(held)").replace(
        "    return {", "    while params['action'] == 'eat':\n        held.append(bytearray(1 << 20))\n"
        "    held.clear()\n    return {"),
    "returns": plain("import uuid, datetime, decimal, enum, dataclasses\nclass Color(enum.Enum):\n    RED = 1\n"
                     "@dataclasses.dataclass\nclass Point:\n    x: int = 1\n"
                     "KINDS = {'uuid': uuid.UUID(int=1), 'set': {1}, 'naive': datetime.datetime(2026, 1, 1),"
                     " 'surrogate': '\\ud800', 'decimal': decimal.Decimal(1), 'key': {1: 2}, 'nan': float('nan'),"
                     " 'huge': 2**60, 'bytearray': bytearray(b'x'),"
                     " 'nested': [{'a': object()}], 'day': datetime.date(2026, 1, 1), 'color': Color.RED,"
                     " 'point': Point(),"
                     " 'aware': datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), 'tuple': (1, 2)}",
                     "KINDS[params['action']]"),
}
EXTRA = {"helper.py": "import plugin as entry_module\nNAME = __name__\n\n"
         "def entry():\n    return entry_module.plugin\n",
         "vendored/data.txt": "from memory", "vendored/deep/__init__.py": "",
         "vendored/deep/part.py": "from ..util import word\n\ndef here():\n    return word\n",
         "vendor/pack/__init__.py": "def f():\n    return 1\n", "vendor/pack/data.bin": "bytes",
         "vendor/pack-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: pack\nVersion: 1.5\n",
         "vendor/pack-1.5.dist-info/entry_points.txt": "[a]\nb = pack:f\n",
         "hidden/inner_module.py": "VALUE = 'hidden'\n",
         "vendored/util.py": "word = 'relative'\n",
         # What six does for six.moves: modules that no file is, by a finder of its own, which stands last.
         "vendored/__init__.py": """
import functools, importlib, sys, types

class Moves:
    def find_spec(self, fullname, path=None, target=None):
        if fullname in ("vendored.moves", "vendored.moves.urllib"):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        module.reduce = functools.reduce

sys.meta_path.append(Moves())
"""}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    folder.chmod(0o755)
    for name, code in PLUGINS.items():
        target = write_plugin(folder / "plugins", name, code)
        for path, text in EXTRA.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text)
    config = {"limits.cpu_percent": 100, "pool.idle_seconds": 0.2, "sandbox.extra_modules": ["socket"]}
    with Daemon(plugins=folder / "plugins", config=config) as made:
        yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.endpoint) as made:
        yield made


def result(client: Client, plugin: str, action: str = "x") -> Any:
    return client.invoke(plugin, "onActionExecute", USER, {"action": action, "context": {}})["result"]["result"]


def error(client: Client, plugin: str, action: str = "x") -> CallError:
    with pytest.raises(CallError) as caught:
        client.invoke(plugin, "onActionExecute", USER, {"action": action, "context": {}})
    return caught.value


def test_own_modules_packages_and_relative_imports_come_from_memory(client: Client) -> None:
    assert result(client, "uses-modules") == ["helper", "relative", "vendored", True]


def test_data_files_are_read_as_package_resources(client: Client) -> None:
    text, same, names = result(client, "uses-data")
    assert text == same == "from memory" and names == ["__init__.py", "data.txt", "deep", "util.py"]


def test_no_module_keeps_a_function_that_would_ask_the_kernel_for_a_bundles_file(client: Client) -> None:
    assert result(client, "looks-for-the-kernels") == []


def test_a_bundles_own_files_are_read_by_path_and_no_other(client: Client) -> None:
    (text, same, is_folder, nothing, passwd, top, globbed, found, absolute, here, size, entries, outside, write,
     write_elsewhere, missing, root, raw) = result(client, "reads-its-files")
    assert text == same == "from memory" and is_folder and not nothing and not passwd and size == len(text)
    assert {"plugin.py", "vendored", "manifest.json"} <= set(top) and globbed == ["data.txt", "deep"]
    assert found == ["__init__.py", "__init__.py", "part.py", "util.py"] and entries == [False, False]
    assert absolute == "/plugins/reads-its-files/x" and here == "/plugins/reads-its-files"
    assert outside[0] == "PermissionError" and "importlib.resources" in outside[1]
    assert write[0] == "OSError" and "context.api.storage" in write[1]
    assert write_elsewhere[0] == "PermissionError" and missing[0] == root[0] == "FileNotFoundError"
    assert raw[0] == "PermissionError"


def test_a_vendored_package_is_found_as_if_it_were_installed(client: Client) -> None:
    (version, same, names, data, modules, source, origin, inner, entries, missing,
     place) = result(client, "uses-metadata")
    assert version == same == "1.5" and names == ["pack"] and data == "bytes" and modules == ["deep", "util"]
    assert source == "def f():\n    return 1\n" and origin == "/plugins/uses-metadata/vendor/pack/__init__.py"
    assert inner == "hidden" and entries == ["b"] and missing == "no-such"
    assert place == "/plugins/uses-metadata/vendor/pack"


def test_every_time_zone_is_there_without_a_file_system(client: Client) -> None:
    assert result(client, "uses-zones") == ["2:00:00", "-1 day, 20:00:00", "5:30:00", True]


def test_the_allowed_library_works_where_it_loads_more_on_first_use(client: Client) -> None:
    assert result(client, "uses-library") == ["2d711642", 2, "e4", "a.b", "1", "1.10", "z"]


def test_what_the_library_looks_up_late_is_found_and_what_is_missing_is_an_attribute_error(client: Client) -> None:
    names = ["utf-8-sig", "iso8859-1", "cp1252", "utf-16"]
    assert result(client, "uses-late-library") == [
        True, True, 1, True, True, names, [False] * 3, "IsolatedAsyncioTestCase"]


def test_clocks_sleep_asyncio_and_questions_about_itself_work(client: Client) -> None:
    clocks, *rest = result(client, "uses-kernel")
    assert clocks == [True] * 5
    assert rest == [True, True, None, True, True, True, True, "woken", "said", 50, ""]


def test_a_worker_that_is_stopped_in_its_sleep_goes_on(client: Client, daemon: Daemon) -> None:
    assert result(client, "sleeps") == [None, None]
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(result, client, "sleeps")
        (pid,) = daemon.pids("sleeps")
        while not answer.done():
            for number in (signal.SIGSTOP, signal.SIGCONT):
                os.kill(pid, number)
                time.sleep(0.02)
        assert answer.result() == [None, None]
    assert time.monotonic() - begun >= 1.0


def test_no_two_workers_of_one_zygote_share_randomness(client: Client) -> None:
    first = result(client, "uses-random")
    time.sleep(1.0)  # idle workers leave after 0.2 s
    second = result(client, "uses-random")
    assert all(a != b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("plugin", "says"), [("forbidden", "sandbox.extra_modules"), ("missing", "not in the bundle")])
def test_other_imports_fail_with_the_reason(client: Client, plugin: str, says: str) -> None:
    caught = error(client, plugin)
    assert caught.code == "PLUGIN_ERROR" and says in str(caught)


@pytest.mark.parametrize(("plugin", "says"), [
    ("threads", "has no threads"), ("to-thread", "has no threads"), ("resolves", "no threads"),
    ("no-loop", "needs an event loop")])
def test_what_a_worker_has_not_is_said_in_words(client: Client, plugin: str, says: str) -> None:
    assert says in str(error(client, plugin))


def test_asyncio_works_and_leftover_tasks_are_cancelled_before_the_next_call(client: Client) -> None:
    assert result(client, "loops") == "slept"
    assert result(client, "leaves-tasks") == [] and result(client, "leaves-tasks") == ["cancelled"]


def test_a_module_that_is_missing_is_missing_in_pythons_own_way(client: Client) -> None:
    found, fernet, *imported = result(client, "tries")
    assert found == [["cryptography", True], ["subprocess", True], ["vendored.nothing", True], ["json.nothing", True],
                     ["ssl", True]]
    assert fernet is None and imported == ["requests", None, False]


def test_what_a_library_finds_itself_is_imported(client: Client) -> None:
    assert result(client, "finds") == ["vendored.moves", 3, "vendored.moves.urllib"]


@pytest.mark.parametrize("plugin", ["names-wrongly", "names-wrongly-at-load"])
def test_no_message_names_a_path_of_the_daemon(client: Client, plugin: str) -> None:
    caught = error(client, plugin)
    told = json.dumps(caught.reply, default=str)
    assert "cannot import name 'Nope'" in told
    for place in (sys.prefix, sys.base_prefix, str(Path(workers.__file__).parent.parent)):
        assert place not in told, told


@pytest.mark.parametrize(("kind", "says"), [
    ("decimal", "str(value)"), ("uuid", "str(value)"), ("set", "sorted(value)"), ("naive", "time zone"),
    ("key", "str(key)"), ("nan", "None"), ("huge", "str(value)"), ("bytearray", "bytes(value)"),
    ("day", "value.isoformat()"), ("color", "value.value"), ("point", "dataclasses.asdict(value)"),
    ("nested", "maps, lists, texts")])
def test_what_cannot_be_carried_is_refused_with_what_to_write_instead(client: Client, kind: str, says: str) -> None:
    assert says in str(error(client, "returns", kind))


def test_a_traceback_shows_the_plugins_lines_and_no_path_of_the_daemon(client: Client) -> None:
    trace = error(client, "raises").reply["details"]["traceback"]
    assert "raises/plugin.py" in trace and "raise ValueError('deep down')  # the line that shows" in trace
    assert "/serve.py" not in trace and "ValueError: deep down" in trace


def test_memory_that_runs_out_is_told_and_the_worker_goes_on(client: Client) -> None:
    assert error(client, "eats-memory", "eat").code == "MEMORY_LIMIT"
    assert result(client, "eats-memory") == 0


@pytest.mark.parametrize(
    "kind", ["uuid", "set", "naive", "surrogate", "decimal", "key", "nan", "huge", "bytearray", "nested"])
def test_what_messagepack_cannot_carry_is_never_turned_into_something_else(client: Client, kind: str) -> None:
    caught = error(client, "returns", kind)
    assert caught.code == "INVALID_OUTPUT" and str(caught.reply["details"]["path"]).startswith("$")


def test_aware_timestamps_and_tuples_pass(client: Client) -> None:
    assert result(client, "returns", "aware").year == 2026 and result(client, "returns", "tuple") == [1, 2]
