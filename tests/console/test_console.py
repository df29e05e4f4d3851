"""The console as a process: beside a daemon that goes and comes back, behind TLS, behind a proxy, at rest."""

from __future__ import annotations

import gzip
import http.client
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from apex_exec.client import AdminClient
from apex_exec.console.web import STATIC
from apex_exec.ledger.reading import Filter, read_events
from tests.console.pages_of_ours import text_of
from tests.support.certificates import certificate_for
from tests.support.console import Console, wait_until
from tests.support.daemon import ECHO, Daemon, write_plugin

pytestmark = pytest.mark.slow
"""What each of these promises shows in a process of its own; ``test_attacks`` runs by default."""
PSS_BYTES_MAX = 60_000_000
SENT_BYTES_MAX = 150_000
REQUESTS_MAX = 30


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    with Daemon(plugins=tmp_path / "plugins") as running:
        yield running


def test_a_daemon_that_is_away_is_said_and_the_console_goes_on_when_it_is_back(daemon: Daemon) -> None:
    with Console(daemon) as console:
        browser = console.browser("anna", "operator")
        assert "no host has called" in text_of(browser.get("/").body)
        daemon.kill()
        wait_until(lambda: browser.get("/").status == 503, 20, "word of the daemon's end")  # a second's look is kept
        for path in ("/", "/plugins", "/plugins/echo", "/audit", "/doctor"):
            begun = time.monotonic()
            answer = browser.get(path)
            assert answer.status == 503 and "The daemon does not answer" in text_of(answer.body)
            assert time.monotonic() - begun < 20
        part = browser.get("/", X_Fragment="1")
        assert part.status == 503 and "<main" not in part.body
        refused = browser.post("/plugins/echo/restart", csrf=browser.get("/doctor").csrf)
        assert refused.status == 503
        daemon.start()
        wait_until(lambda: browser.get("/").status == 200, 20, "page after the daemon came back")
        assert "no host has called" in text_of(browser.get("/").body)
        assert console.stop() == 0


def test_a_console_may_start_before_its_daemon(daemon: Daemon) -> None:
    daemon.stop()
    with Console(daemon) as console:
        browser = console.browser("anna", "viewer")
        assert browser.get("/").status == 503
        daemon.start()
        wait_until(lambda: browser.get("/").status == 200, 20, "page")


def test_open_prints_a_link_that_signs_in_once(daemon: Daemon) -> None:
    with Console(daemon, "--open", "--role", "viewer") as console:
        link = re.search(r"open this once, within ten minutes: (\S+)", console.said)
        assert link
        browser = console.browser()
        browser.sign_in(link[1])
        assert "viewer" in text_of(browser.get("/").body)


def recorded(daemon: Daemon) -> list[str]:
    """What the daemon was asked for, as its ledger has it: a record comes there a moment after the answer."""
    return [event.action for event in read_events(daemon.state / "audit.db", Filter(event_types=("admin.action",)))]


def test_at_rest_it_is_small_and_asks_nothing_and_pages_are_light(daemon: Daemon) -> None:
    with Console(daemon) as console:
        browser = console.browser("anna", "operator")
        for path in ("/", "/plugins", "/plugins/echo", "/audit", "/doctor"):
            page = browser.get(path)
            assert page.status == 200 and len(re.findall(r'(?:src|rel="\w+" href)="/static', page.body)) < REQUESTS_MAX
            assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", page.body), "nothing is from elsewhere"
        process = psutil.Process(console.process.pid)
        wait_until(lambda: "daemon.doctor" in recorded(daemon), 30, "record of the last page")
        asked = recorded(daemon)
        before, switches = process.cpu_times(), process.num_ctx_switches()
        time.sleep(5)
        after = process.cpu_times()
        assert (after.user - before.user) + (after.system - before.system) <= 0.05  # 1 % of a core
        assert process.num_ctx_switches().voluntary - switches.voluntary < 50, "it wakes up for nothing"
        assert recorded(daemon) == asked, "it asks for nothing"
        assert process.memory_full_info().pss <= PSS_BYTES_MAX
        assert sum(len(gzip.compress(path.read_bytes())) for path in STATIC.iterdir()) <= SENT_BYTES_MAX


def test_with_tls_others_may_reach_it_and_the_cookie_is_secure(daemon: Daemon, tmp_path: Path) -> None:
    certificate, private = certificate_for(tmp_path, "console.example")
    config = {"console.tls_certificate": str(certificate), "console.tls_key": str(private),
              "console.hosts": ["console.example"], "console.address": "0.0.0.0:0"}
    with Console(daemon, "--address=0.0.0.0:0", config=config) as console:
        assert console.origin == "https://console.example"
        token = console.link("anna", "viewer").partition("token=")[2]
        port = next(one.laddr.port for one in psutil.Process(console.process.pid).net_connections("tcp")
                    if one.status == "LISTEN")
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False  # it is asked by its address; the Host header has its name
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
        connection.request("POST", "/login", f"token={token}", {
            "Host": "console.example", "Origin": "https://console.example",
            "Content-Type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        cookie = answer.headers["Set-Cookie"]
        assert answer.status == 303 and cookie.startswith("__Host-apex-console-") and "Secure" in cookie
        connection.close()


@pytest.mark.parametrize(("sent", "status"), [
    ({"X_Forwarded_Proto": "https", "X_Forwarded_For": "192.0.2.7"}, 200),
    ({"X_Forwarded_Proto": "http"}, 403), ({}, 403), ({"X_Forwarded_Proto": "https, http"}, 403),
    ({"X_Forwarded_Proto": "https", "Host": "127.0.0.1"}, 421),
])
def test_behind_a_proxy_only_what_came_by_https_is_answered(daemon: Daemon, sent: dict[str, str], status: int) -> None:
    config = {"console.trusted_proxy": "127.0.0.1", "console.hosts": ["console.example"]}
    with Console(daemon, config=config) as console:
        port = next(one.laddr.port for one in psutil.Process(console.process.pid).net_connections("tcp")
                    if one.status == "LISTEN")
        console.host = f"127.0.0.1:{port}"
        assert console.browser().get("/login", **{"Host": "console.example", **sent}).status == status


def test_a_peer_that_is_not_the_proxy_is_not_answered(daemon: Daemon) -> None:
    config = {"console.trusted_proxy": "192.0.2.1", "console.hosts": ["console.example"]}
    with Console(daemon, config=config) as console:
        port = next(one.laddr.port for one in psutil.Process(console.process.pid).net_connections("tcp")
                    if one.status == "LISTEN")
        console.host = f"127.0.0.1:{port}"
        answer = console.browser().get("/login", Host="console.example", X_Forwarded_Proto="https")
        assert answer.status == 403 and "its proxy only" in answer.body


@pytest.mark.parametrize(("flags", "says"), [
    (["--address", "0.0.0.0:0"], "console.tls_certificate"), (["--address", "nonsense"], "HOST:PORT"),
    (["--address", "127.0.0.1:1", "--config", "/nonexistent"], "/nonexistent"),
])
def test_a_console_that_may_not_be_there_says_why_in_one_line(flags: list[str], says: str) -> None:
    done = subprocess.run([sys.executable, "-m", "apex_exec", "console", *flags], capture_output=True, text=True,
                          timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("apex-exec: ") and says in done.stderr


def test_an_approval_that_a_plugin_waits_for_is_shown_with_the_command_that_gives_it(daemon: Daemon,
                                                                                     tmp_path: Path) -> None:
    asks = '@plugin.hook("onActionExecute")\ndef act(context, params):\n    context.api.call("admin.users.list")\n'
    needy = write_plugin(tmp_path / "other", "needy", asks, permissions=("admin:users",), author="<b>ACME</b>")
    with Console(daemon) as console, AdminClient(daemon.admin) as admin:
        browser = console.browser("vera", "viewer")
        assert "No plugin waits" in text_of(browser.get("/approvals").body)
        done = admin.request("plugin.install", {"path": str(needy)}, 180_000)
        assert done["state"] == "pending_approval"
        text = text_of(browser.get("/approvals").body)
        assert "admin:users for needy 1.0.0" in text and "needy by <b>ACME</b>" in text and done["digest"] in text
        assert "apex-exec plugin approve needy admin:users --version 1.0.0 --key NAME --reason TEXT" in text
