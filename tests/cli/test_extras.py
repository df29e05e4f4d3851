"""What is installed is what is used: the base runs alone, and whatever needs an extra says which."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from apex_exec import extras
from apex_exec.testing.configuration import to_toml
from tests.support import need
from tests.support.daemon import EXAMPLES, ROOT, USER, Daemon, write_plugin

MODULES = sorted({module.partition(".")[0] for extra in extras.EXTRAS.values() for module in extra.modules}
                 - {"pytest"})
"""Not pytest: it runs these tests, and finds plugins of its own while it does."""
HIDES = f'''
import sys
from importlib.machinery import PathFinder

class _Rest(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {MODULES!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = _Rest
'''
TALKATIVE = '''
@plugin.hook("onActionExecute")
async def act(context, params):
    import workers
    said = {}
    for name, call in (("query", lambda: context.api.query("SELECT id FROM orders")),
                       ("fetch", lambda: context.api.fetch("https://api.example.com/"))):
        try:
            await call()
        except Exception as error:
            said[name] = [error.code, str(error)]
    return {"result": said, "metadata": {}}
'''


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which no package of an extra can be imported, nor in those that it starts."""
    folder = tmp_path_factory.mktemp("hides")
    (folder / "sitecustomize.py").write_text(HIDES)
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "apex_exec", *arguments], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **environment})


def one_line(done: subprocess.CompletedProcess[str], status: int, what: str, extra: str) -> None:
    *progress, said = done.stderr.splitlines()
    assert done.returncode == status and not [line for line in progress if "apex-exec:" in line], done.stderr
    assert f'apex-exec: {what} needs the extra "{extra}"' in said.replace("REFUSED: ", "") and said.count("[") == 1
    assert f"pip install '.[{extra}]'" in said and "Traceback" not in done.stderr


def test_the_table_of_extras_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["optional-dependencies"]
    assert set(extras.EXTRAS) | {"all", "test", "test-helm", "bench"} == set(listed)
    apart = ("debug", "fleet-ray")
    assert listed["all"] == [f"apex-exec[{','.join(name for name in extras.EXTRAS if name not in apart)}]"]
    base = {re.split(r"[\[><=]", name)[0].lower() for name in project["dependencies"]}
    for name, extra in extras.EXTRAS.items():
        packages = {re.split(r"[\[><=]", package)[0].lower() for package in listed[name]} - {"apex-exec"}
        assert {{"jwt": "pyjwt"}.get(module, module.partition("_")[0].replace(".", "-"))
                for module in extra.modules} == packages, name
        assert not packages & base, f"{name}: the base has these already"


KEYS: list[tuple[dict[str, Any], str, str]] = [
    ({"data.tables": {"orders": {"owner": "user_id", "columns": ["id"]}}}, "data.tables", "data"),
    ({"fetch.allow": ["api.example.com"]}, "fetch.allow", "fetch"),
    ({"registry.url": "postgresql://me@db/x"}, "registry.url", "registry"),
    ({"traces.endpoint": "http://127.0.0.1:4318"}, "traces.endpoint", "otel"),
    ({"market.index": "https://market.example.com"}, "market.index", "registry"),
]


@pytest.mark.parametrize(("config", "key", "extra"), KEYS, ids=[key for _, key, _ in KEYS])
@pytest.mark.slow_after(2)
def test_a_key_that_needs_an_extra_says_so_before_anything_starts(
        base: dict[str, str], tmp_path: Path, config: dict[str, Any], key: str, extra: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(to_toml({"state_dir": tmp_path / "state", "runtime_dir": tmp_path / "run", **config}))
    one_line(run(base, "config", "check", str(file)), 2, key, extra)
    one_line(run(base, "serve", "--config", str(file)), 2, key, extra)
    assert not (tmp_path / "state").exists(), "it had begun to start"


def test_installed_plugins_are_not_passed_over_in_silence(base: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "registry.db").touch()
    one_line(run({**base, "APEX_EXEC_STATE_DIR": str(tmp_path)}, "config", "check"), 2,
             str(tmp_path / "registry.db"), "registry")


def test_version_and_doctor_list_the_extras(base: dict[str, str]) -> None:
    assert json.loads(run(base, "version", "--json").stdout)["extras"] == dict.fromkeys(extras.EXTRAS, False)
    said = run(base, "version").stdout
    assert "not installed: registry, data, postgres, fetch, console, door, otel, debug, fleet-ray, market" in said
    assert set(json.loads(run(base, "doctor", "--json").stdout)["extras"]) == set(extras.EXTRAS)


@pytest.fixture(scope="module")
def served(base: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon of the base alone."""
    plugins = tmp_path_factory.mktemp("plugins")
    shutil.copytree(EXAMPLES / "hello-world", plugins / "hello-world")
    write_plugin(plugins, "talkative", TALKATIVE, permissions=("data:read", "network:fetch"),
                 data={"tables": ["orders"]}, network={"allow": ["api.example.com"]})
    with Daemon(plugins=plugins, env=base) as daemon:
        yield daemon


def test_the_base_serves_plugins_from_a_folder(served: Daemon) -> None:
    from apex_exec.client import Client

    with Client(served.endpoint) as host:
        assert host.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "main"})["result"]
    assert served.get("/readyz")[0] == 200


def test_a_plugin_that_wants_what_is_not_installed_is_refused_and_told_why(served: Daemon) -> None:
    from apex_exec.client import Client

    with Client(served.endpoint) as host:
        reply = host.invoke("talkative", "onActionExecute", USER, {"action": "ask", "context": {}})
    said = reply["result"]["result"]
    assert said["query"][0] == "table_not_allowed" and 'needs the extra "data"' in said["query"][1]
    assert said["fetch"][0] == "host_not_allowed" and 'needs the extra "fetch"' in said["fetch"][1]
    assert "Traceback" not in served.log


@pytest.mark.parametrize(("verb", "operation"), [
    (["plugin", "list"], "plugin.list"),
    (["plugin", "install", str(EXAMPLES / "hello-world")], "plugin.install"),
    (["keys", "list"], "keys.list"),
    (["market", "search"], "market.search"),
    (["backup", "/nowhere"], "state.backup"),
])
@pytest.mark.slow_after(2)
def test_an_operation_of_the_registry_names_the_extra(
        base: dict[str, str], served: Daemon, verb: list[str], operation: str) -> None:
    one_line(run(base, *verb, "--runtime-dir", str(served.runtime)), 1, operation, "registry")
    assert not [p for p in served.family() if "registrar" in p.name()]


def test_a_verb_that_needs_an_extra_by_itself_names_it(base: dict[str, str]) -> None:
    assert find_spec("coverage"), "the test extra has it"
    one_line(run(base, "plugin", "test", str(EXAMPLES / "hello-world")), 2, "plugin test", "market")
    one_line(run(base, "console"), 2, "apex-exec console", "console")
    up = ("fleet", "up", "--engine", "ray", "--address", "127.0.0.1:1", "--config", "none.toml")
    one_line(run(base, *up), 2, "fleet up --engine ray", "fleet-ray")
    assert run(base, "plugin", "validate", str(EXAMPLES / "hello-world")).returncode == 0


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the base alone, installed as a wheel; made once in a run."""
    folder = tmp_path_factory.mktemp("base")
    source = shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(
        ".venv", "node_modules", ".git", "results", "__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", folder / "v"], check=True, timeout=300)
    done = subprocess.run([folder / "v/bin/pip", "install", "-q", source], capture_output=True, text=True, timeout=600)
    need(done.returncode == 0, f"installing the base: {done.stderr[-300:]}")
    return folder / "v"


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(900)
def test_a_fresh_environment_with_the_base_alone_answers(fresh: Path) -> None:
    listed = subprocess.run([fresh / "bin/pip", "list", "--format", "json"], capture_output=True, text=True,
                            timeout=60, check=True).stdout
    names = {package["name"].lower() for package in json.loads(listed)} - {"pip", "setuptools"}
    assert not names & {"sqlalchemy", "sqlglot", "aiohttp", "coverage", "bandit", "psycopg"} and len(names) <= 22
    demo = subprocess.run([fresh / "bin/apex-exec", "demo", "--json"], capture_output=True, text=True, cwd="/",
                          timeout=120)
    assert demo.returncode == 0 and all(step["asExpected"] for step in json.loads(demo.stdout)["steps"]), demo.stderr


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(900)
def test_the_scaffold_and_the_examples_are_typed_by_the_wheel_alone(fresh: Path, tmp_path: Path) -> None:
    subprocess.run([fresh / "bin/pip", "install", "-q", "pytest>=8"], check=True, timeout=300)
    subprocess.run([fresh / "bin/apex-exec", "plugin", "new", "mine", "--author", "A", "--dir", tmp_path], check=True,
                   timeout=60)
    in_python = [bundle for bundle in sorted(EXAMPLES.iterdir()) if (bundle / "plugin.py").is_file()]
    assert len(in_python) > 3
    for bundle in (tmp_path / "mine", *in_python):
        place = shutil.copytree(bundle, tmp_path / "checked" / bundle.name)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", "--python-executable",
             fresh / "bin/python", "--cache-dir", tmp_path / "cache", "plugin.py", "tests/test_plugin.py"], cwd=place,
            capture_output=True, text=True, timeout=300, env={"PATH": "/usr/bin:/bin", "MYPYPATH": "."})
        assert done.returncode == 0, f"{bundle.name}: {done.stdout}"


def test_both_packages_say_that_they_are_typed() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert packages["packages"] == ["apex_exec", "workers"]
    assert all((ROOT / name / "py.typed").is_file() for name in packages["packages"])
