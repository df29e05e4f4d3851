"""The standard library imports some modules only when a function is first called. In a jail that is too late.

This test reads the source of every module that the zygote has loaded, on the interpreter that runs the tests, and finds
each import inside a function. Its module must be loaded as well, or stand in ``LEFT_OUT`` with the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = {
    "the network": "ftplib http.server smtplib",
    "a terminal or a browser": "pydoc_data.topics tty webbrowser",
    "databases in files": "dbm",
    "other systems": "org.python.core win32evtlog win32evtlogutil _ios_support ctypes "
                     "_aix_support _osx_support _winapi _winreg encodings.mbcs java.lang nt plistlib vms_lib winreg",
    "an interactive interpreter": "_pyrepl.main _pyrepl.readline _pyrepl.unix_console pydoc readline rlcompleter "
                                  "sitecustomize usercustomize",
    "modules run as a program": "doctest getopt py_compile",
    "processes": "concurrent.futures.process",
    "users and groups of the machine": "grp pwd",
    "a build of Python": "_sysconfig",
    "packages that are installed": "importlib.metadata",
    "archives in a file system": "tarfile",
    "pickles": "pickle",
}
"""Why a plugin has no use for a module -> the modules. An import of one of them fails with a reason that says so."""

FINDER = """
import ast, importlib.util, json, sys
from apex_exec.sandbox.modules import ALLOWED, HIDDEN, REFUSED
from workers.python.preload import preload

preload({"preload": list(ALLOWED), "hidden": list(HIDDEN), "refused": list(REFUSED), "withheld": {}})
late = {}


def wanted(node, package):
    if isinstance(node, ast.Import):
        yield from ((alias.name, True) for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        base = importlib.util.resolve_name("." * node.level + base, package)
    yield base, True
    yield from ((f"{base}.{alias.name}", False) for alias in node.names)  # a module only if there is one of that name


for name, module in list(sys.modules.items()):
    path = getattr(module, "__file__", None) or ""
    if name.partition(".")[0] not in sys.stdlib_module_names or not path.endswith(".py"):
        continue
    package = name if hasattr(module, "__path__") else name.rpartition(".")[0]
    with open(path, "rb") as file:
        tree = ast.parse(file.read())
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for one, certain in wanted(node, package):
                    if one in sys.modules:
                        continue
                    try:
                        known = importlib.util.find_spec(one) is not None
                    except (ImportError, ValueError):
                        known = False
                    if known or (certain and one.partition(".")[0] not in sys.stdlib_module_names):
                        late.setdefault(one, []).append(f"{name}.{function.name}")
print(json.dumps(late))
"""


@pytest.mark.slow
def test_whatever_a_function_of_the_library_imports_is_loaded_before_the_fork() -> None:
    done = subprocess.run([sys.executable, "-c", FINDER], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    left_out = {name for names in LEFT_OUT.values() for name in names.split()}
    late = {name: places for name, places in json.loads(done.stdout).items() if name not in left_out}
    assert not late, f"add these to HIDDEN in apex_exec/sandbox/modules.py, or say here why not: {late}"
