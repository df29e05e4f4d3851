"""Runs a bundle's tests in a worker: pytest modules made from memory, with every jump between the plugin's lines
traced.

Only the test zygote has this module loaded, together with pytest and coverage. The jail is the same as every worker's,
with one thing more: a temporary folder, made for this run and removed after it, the only place that can be written.
Nothing else can be opened, so the tests are modules from the bundle. The trace is sent unchanged; the process that
started the worker interprets it, and trusts none of it without a check.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import linecache
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import _pytest.assertion.rewrite
import coverage.disposition
import coverage.pytracer
import msgspec
import pytest
from _pytest.config import _prepareconfig
from _pytest.logging import LogCaptureHandler, caplog_handler_key, caplog_records_key, catching_logs
from _pytest.main import Session

from workers import wire
from workers.async_tests import run_coroutine
from workers.jail.base import SCRATCH
from workers.python import code_places
from workers.python.loader import load
from workers.runtime.link import Link

FAILURES_MAX = 20
FAILURE_CHARACTERS_MAX = 2000
NAME_CHARACTERS_MAX = 300
_OFF = ("cacheprovider", "capture", "debugging", "doctest", "faulthandler", "junitxml", "legacypath", "logging",
        "pastebin", "setuponly", "setupplan", "stepwise", "terminal", "threadexception", "unraisableexception")
"""pytest's own plugins that need files elsewhere, a terminal or a thread."""
_OPTIONS = [part for name in _OFF for part in ("-p", f"no:{name}")]
_OPTIONS += ["-o", "tmp_path_retention_policy=failed"]  # files of a passed test are removed to make room for the next
NO_FOLDER = "this machine gives tests no temporary folder: it cannot make namespaces (see apex-exec doctor)"


class _Recorder:
    """Counts pytest's reports, and checks after every test whether the tracer is still in place."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.failures: list[str] = []
        self.tampered = False
        self.trace: Any = None
        self.begins: Callable[[str], None] = lambda _name: None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins. This is reported, so that an observer can say which test hangs."""
        self.begins(nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: Any) -> None:
        """Drops what was logged while fixtures were set up: it is not part of the test itself."""
        handler = item.stash.get(caplog_handler_key, None)
        if handler is not None:
            handler.reset()
            item.stash[caplog_records_key]["call"] = handler.records

    def pytest_pyfunc_call(self, pyfuncitem: Any) -> bool | None:
        """Runs a test that is a coroutine."""
        return run_coroutine(pyfuncitem)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One phase of one test."""
        if report.failed:
            self._failed(report)
        elif report.when == "call" and report.passed:
            self.passed += 1
        if self.trace is not None and sys.gettrace() != self.trace:
            self.tampered = True

    def pytest_collectreport(self, report: Any) -> None:
        """One file was collected."""
        if report.failed:
            self._failed(report)

    def _failed(self, report: Any) -> None:
        self.failed += 1
        if len(self.failures) < FAILURES_MAX:
            self.failures.append(f"{report.nodeid}: {report.longreprtext}"[-FAILURE_CHARACTERS_MAX:])


class Captured(NamedTuple):
    """What a test has printed since ``capsys`` was last read."""

    out: str
    err: str


class Capsys:
    """pytest's ``capsys`` without its files: ``sys.stdout`` and ``sys.stderr`` of one test, kept as text."""

    def __init__(self) -> None:
        self._outside = sys.stdout, sys.stderr
        self._streams = io.StringIO(), io.StringIO()
        sys.stdout, sys.stderr = self._streams

    def readouterr(self) -> Captured:
        """What was printed since the last call."""
        found = Captured(*(stream.getvalue() for stream in self._streams))
        for stream in self._streams:
            stream.seek(0)
            stream.truncate()
        return found

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Text that is printed inside goes to the author's terminal."""
        within = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = self._outside
        try:
            yield
        finally:
            sys.stdout, sys.stderr = within

    def close(self) -> None:
        """The test is over."""
        sys.stdout, sys.stderr = self._outside


class _Fixtures:
    """Replacements for fixtures of pytest's own plugins that need files."""

    @pytest.fixture
    def capsys(self) -> Iterator[Capsys]:
        """Captures what a test and the plugin print."""
        made = Capsys()
        try:
            yield made
        finally:
            made.close()

    @pytest.fixture
    def caplog(self, request: pytest.FixtureRequest) -> Iterator[pytest.LogCaptureFixture]:
        """Captures what a test and the plugin log, including ``context.log``."""
        stash = request.node.stash
        with catching_logs(LogCaptureHandler()) as handler:
            stash[caplog_handler_key], stash[caplog_records_key] = handler, {"setup": handler.records}
            made = pytest.LogCaptureFixture(request.node, _ispytest=True)
            yield made
            made._finalize()
        del stash[caplog_handler_key], stash[caplog_records_key]


class _Module(pytest.Module):
    """A test file of the bundle."""

    source: Callable[[], ModuleType]

    def _getobj(self) -> ModuleType:
        return self.source()


def _nothing_there(path: Any, *_arguments: Any, **_named: Any) -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, "a plugin's tests have no files", path)


os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
_recorder = _Recorder()
_config = _prepareconfig(["--rootdir=/", "-c", os.devnull, *_OPTIONS], [_recorder, _Fixtures()])
_config._do_configure()  # once, in the zygote: later no file can be searched for


def _load_test(plugin: str, path: str, files: dict[str, bytes]) -> ModuleType:
    name = f"/{plugin}/{path}"
    text = files[path].decode("utf-8")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    tree = ast.parse(text, name)
    _pytest.assertion.rewrite.rewrite_asserts(tree, files[path], name, _config)
    gate: Any = sys.meta_path[0]  # our importer
    module = ModuleType(path.removesuffix(".py").replace("/", "."))
    module.__file__ = name
    module.__dict__["__builtins__"] = gate._builtins()
    sys.modules[module.__name__] = module
    exec(compile(tree, name, "exec", dont_inherit=True), module.__dict__)
    return module


def _collect(message: wire.Load, session: Session) -> None:
    """Fills ``session.items`` with the tests of the bundle."""
    for path in sorted(message.files):
        if re.fullmatch(r"tests/(.*/)?conftest\.py", path):
            _config.pluginmanager.register(_load_test(message.plugin, path, message.files),
                                          f"conftest of {path.rpartition('/')[0]}")
    for path in sorted(message.files):
        if not re.fullmatch(r"tests/(.*/)?(test_[^/]*|[^/]*_test)\.py", path):
            continue
        node: Any = _Module.from_parent(session, path=Path(f"/{message.plugin}/{path}"))
        node.source = lambda path=path: _load_test(message.plugin, path, message.files)
        session.items.extend(session.genitems(node))
    _config.hook.pytest_collection_modifyitems(session=session, config=_config, items=session.items)


class Tracer:
    """Records the jumps between lines of the bundle's own files, except its tests."""

    def __init__(self, plugin: str, files: dict[str, bytes]) -> None:
        names = {f"{plugin}/{path}": path for path in code_places.counted(files)}
        self._names = names
        self._data: dict[str, Any] = {}
        tracer: Any = coverage.pytracer.PyTracer()
        tracer.data = self._data
        tracer.trace_arcs = True
        tracer.should_trace = self._should_trace
        tracer.should_trace_cache = {}
        tracer.warn = lambda *_arguments, **_named: None
        tracer.lock_data = tracer.unlock_data = lambda: None
        tracer.should_start_context = None
        tracer.switch_context = None
        self._tracer = tracer

    def _should_trace(self, filename: str, _frame: Any) -> Any:
        disposition: Any = coverage.disposition.FileDisposition()
        disposition.original_filename = disposition.canonical_filename = filename
        disposition.source_filename = self._names.get(filename)
        disposition.trace = filename in self._names
        disposition.reason = ""
        disposition.file_tracer = None
        disposition.has_dynamic_filename = False
        return disposition

    def start(self) -> Any:
        """Starts tracing and returns the trace function, which has to stay in place."""
        self._tracer.start()
        return sys.gettrace()

    def stop(self) -> dict[str, list[tuple[int, int]]]:
        """Stops tracing. Returns path in the bundle → jumps."""
        self._tracer.stop()
        return {path: sorted(arcs) for path, arcs in self._data.items()}


def run(message: wire.Load, link: Link, *, has_folder: bool) -> int:
    """Loads the plugin, runs its tests and sends one Tested. Returns the process's exit status.

    Every run is the same: an observer outside may watch any lines of it, or none, and nothing inside reveals which.
    """
    _use_folder(has_folder)
    compiled = code_places.compile_all(message.plugin, message.files)
    link.send(wire.Placed(code_places.places_of(message.files, compiled)))
    code_places.no_native_calls()
    if type(link.next()) is not wire.Ping:
        return 0
    _recorder.begins = lambda name: link.send(wire.Testing(name[-NAME_CHARACTERS_MAX:], _recorder.passed,
                                                           _recorder.failed))
    logging.getLogger("plugin").setLevel(logging.DEBUG)  # as in every worker
    tracer = Tracer(message.plugin, message.files)
    _recorder.trace = tracer.start()
    session = Session.from_config(_config)
    try:
        load(message, compiled)
        _config.hook.pytest_sessionstart(session=session)
        _collect(message, session)
        _config.hook.pytest_runtestloop(session=session)
    except (Exception, pytest.exit.Exception, SystemExit, KeyboardInterrupt) as error:
        _recorder.failed += 1
        _recorder.failures.append(f"{type(error).__name__}: {str(error)[:FAILURE_CHARACTERS_MAX]}")
    arcs = tracer.stop()
    link.send(wire.Tested(_recorder.passed, _recorder.failed, _recorder.failures, arcs, _recorder.tampered))
    return 0


def _use_folder(there: bool) -> None:
    factory: Any = _config._tmp_path_factory  # type: ignore[attr-defined]  # set by pytest's own plugin
    if there:
        factory._given_basetemp = Path(SCRATCH, "pytest")
        return
    os.stat = os.lstat = _nothing_there  # pathlib treats the jail's EPERM as an error, but not ENOENT
    os.getcwd = lambda: "/"

    def refuse(*_arguments: Any, **_named: Any) -> NoReturn:
        raise OSError(errno.EROFS, NO_FOLDER)

    factory.getbasetemp = refuse


def _warm_up() -> None:
    """Runs one passing and one failing test in the zygote, so that whatever pytest imports late is loaded before the
    jail."""
    files = {"tests/test_warm.py": b"import pytest\n\n@pytest.fixture\ndef one():\n    return 1\n\n"
                                   b"@pytest.mark.parametrize('x', [1])\n"
                                   b"def test_good(one, x, capsys, caplog):\n    print(x)\n"
                                   b"    assert capsys.readouterr().out and not caplog.text\n"
                                   b"    with pytest.raises(ValueError, match='n'):\n        raise ValueError('no')\n"
                                   b"    assert one == pytest.approx(x)\n\n"
                                   b"def test_bad(monkeypatch):\n    assert [1, {'a': 2}] == [1, {'a': 3}], 'so'\n"}
    session = Session.from_config(_config)
    _config.hook.pytest_sessionstart(session=session)
    sys.meta_path.insert(0, _Plain())
    try:
        message = msgspec.convert(["load", "warm", "1.0.0", "plugin.py", {}, {}, 0], wire.Load, strict=False)
        message.files.update(files)
        _collect(message, session)
        _config.hook.pytest_runtestloop(session=session)
    finally:
        del sys.meta_path[0]
        sys.modules.pop("tests.test_warm", None)
        for name in ("session", "funcmanage"):
            _config.pluginmanager.unregister(name=name)
    assert (_recorder.passed, _recorder.failed) == (1, 1), _recorder.failures
    _recorder.passed = _recorder.failed = 0
    _recorder.failures.clear()


class _Plain:
    def find_spec(self, *_arguments: Any) -> None:
        """Finds nothing."""

    def _builtins(self) -> dict[str, Any]:
        import builtins

        return dict(vars(builtins))


_warm_up()
code_places.no_jumps()
