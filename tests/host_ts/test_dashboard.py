"""The example platform: the document's `pluginRegistry.register({...})`, unchanged, and `onDashboardLoad` as a page, on
every JavaScript runtime over the socket."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.host_ts.conftest import COMPILED, HOST_TS, Scenario
from tests.support.daemon import Daemon, wait_for
from tests.support.runtimes import RUNTIMES, runtime

PROGRAM = COMPILED.parents[2] / "apex_exec/examples/host-ts/dashboard.js"
WIDGET = ('<section id="custom-analytics/chart" data-component="Chart" '
          'data-props="{&#34;dashboard&#34;:&#34;main&#34;}"></section>')
REGISTERED = '''pluginRegistry.register({
  id: "custom-analytics",
  name: "Custom Analytics Dashboard",
  version: "1.0.0",
  author: "ACME Corp",
  permissions: ["data:read", "ui:render"],
  manifest: {
    entrypoint: "/plugins/custom-analytics/index.js",
    hooks: ["onDashboardLoad", "onDataFetch"],
  },
});
'''
"""As the document prints it."""


@pytest.fixture(scope="module")
def empty() -> Iterator[Daemon]:
    """A daemon without a plugin; the first runtime registers one, and the others find it registered."""
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        with Daemon(folder, plugins=None) as running:
            running.start_registrar()
            yield running


def shown(address: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_example_registers_what_the_document_prints() -> None:
    assert REGISTERED in (HOST_TS / "dashboard.ts").read_text("utf-8")


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.slow_after(1)
@pytest.mark.timeout(300)
def test_a_platform_registers_the_documents_plugin_and_shows_its_page(name: str, scenario: Scenario, empty: Daemon
                                                                      ) -> None:
    """``scenario`` compiles it."""
    with subprocess.Popen([runtime(name), *RUNTIMES[name], str(PROGRAM), empty.endpoint, empty.admin, str(HOST_TS)],
                          cwd=HOST_TS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "PORT": "0"}) as platform:
        assert platform.stdout is not None
        try:
            found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/dashboards/main\n", platform.stdout.readline())
            assert found, platform.communicate()
            wait_for(lambda: shown(f"{found[1]}/dashboards/main")[0] == 200, 30, "the page")
            status, text = shown(f"{found[1]}/dashboards/main")
            assert (status, WIDGET in text) == (200, True), text
            assert shown(f"{found[1]}/elsewhere")[0] == 404
        finally:
            platform.kill()
