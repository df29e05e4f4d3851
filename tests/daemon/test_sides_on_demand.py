"""A side process exists only if something that is configured needs it, or somebody has asked for what it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apex_exec.client import Client
from tests.support.daemon import USER, Daemon, wait_for, write_plugin

FETCHES = '''
@plugin.hook("onActionExecute")
async def act(context, params):
    try:
        await context.api.fetch("https://api.example.com/")
    except Exception as error:
        return {"result": [error.code, str(error)], "metadata": {}}
'''


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    write_plugin(folder, "fetches", FETCHES, permissions=("network:fetch",), network={"allow": ["api.example.com"]})
    return folder


def sides(daemon: Daemon) -> set[str]:
    return {process.name() for process in daemon.family() if process.name().startswith("apex-")}


def mapped(pid: int) -> set[str]:
    """The folders of the libraries that a process has loaded."""
    return {part for line in Path(f"/proc/{pid}/maps").read_text().splitlines() for part in line.split("/")[1:]}


def test_a_daemon_that_nobody_asks_for_metrics_or_data_has_a_ledger_and_no_other_side(plugins: Path) -> None:
    with Daemon(plugins=plugins) as daemon, Client(daemon.endpoint) as host:
        wait_for(lambda: sides(daemon) == {"apex-ledger"}, 5, "the ledger alone")
        (ledger,) = (process for process in daemon.family() if process.name() == "apex-ledger")
        assert "cryptography" in mapped(ledger.pid)
        assert not {"cryptography", "sqlalchemy", "aiohttp"} & mapped(daemon.pid)
        assert daemon.get("/readyz") == (200, "ok\n")
        assert "apex-exporter" in sides(daemon)
        for _ in range(2):
            reply = host.invoke("fetches", "onActionExecute", USER, {"action": "x", "context": {}})
            assert reply["result"]["result"][0] == "host_not_allowed"
        assert sides(daemon) == {"apex-ledger", "apex-exporter", "apex-gateway"}
        assert daemon.get("/readyz")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("config", [{"fetch.allow": ["api.example.com"]},
                                    {"data.tables": {"orders": {"owner": "user_id", "columns": ["id"]}}}])
def test_a_gateway_that_is_configured_is_there_before_the_first_call(plugins: Path, config: dict[str, object]) -> None:
    with Daemon(plugins=plugins, config=config) as daemon:
        wait_for(lambda: "apex-gateway" in sides(daemon), 5, "the gateway")


def test_the_supervisor_imports_no_database_no_keys_and_no_marketplace() -> None:
    code = ("import sys, apex_exec.daemon.main, apex_exec.daemon.build; "
            "print(*{name.partition('.')[0] for name in sys.modules} | set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "msgspec" in loaded and not loaded & {
        "sqlalchemy", "cryptography", "sqlglot", "aiohttp", "asyncio", "click", "prometheus_client", "zmq",
        "apex_exec.market.service", "apex_exec.market.money", "apex_exec.registry.store"}
