"""A real console process beside a real daemon, and a browser that sends exactly the headers that a test wants."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from html import unescape
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from apex_exec.config import load_settings
from apex_exec.console import control
from apex_exec.console.place import folder_of
from tests.support.daemon import Daemon

START_SECONDS = 60.0


class Answer(NamedTuple):
    """One HTTP answer; ``headers`` with names in lower case."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def csrf(self) -> str:
        """The token of the session that the page was made for."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.body)
        assert found, self.body[:500]
        return unescape(found[1])


class Console:
    """`apex-exec console` for ``daemon``. A context manager; ``flags`` are added to its command line."""

    def __init__(self, daemon: Daemon, *flags: str, config: dict[str, Any] | None = None) -> None:
        self.daemon = daemon
        if config:
            daemon.write_config(config)
        command = [sys.executable, "-m", "apex_exec", "console", "--config", str(daemon.config_file), *flags]
        if not any(flag.startswith("--address") for flag in flags):
            command += ["--address", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=dict(os.environ))
        assert self.process.stdout is not None and self.process.stderr is not None
        first = self.process.stdout.readline()
        found = re.match(r"console on (\S+)\n", first)
        if not found:
            self.process.wait(START_SECONDS)
            raise AssertionError(f"the console did not start: {first}{self.process.stderr.read()}")
        self.origin = found[1]
        self.said = self.process.stdout.readline()
        self.host = urlsplit(self.origin).netloc
        self.folder = folder_of(load_settings(daemon.config_file))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Ends it as SIGTERM does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()

    def link(self, name: str = "anna", *roles: str) -> str:
        """A new one-time link, as `apex-exec console link` prints it."""
        made = control.ask(self.folder, do="link", name=name, roles=list(roles or ("operator",)))
        return str(made["link"])

    def browser(self, name: str = "", *roles: str) -> Browser:
        """A browser, signed in if a name is given."""
        browser = Browser(self)
        if name:
            browser.sign_in(self.link(name, *roles))
        return browser


class Browser:
    """Keeps cookies and nothing else."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.cookies: dict[str, str] = {}

    def sign_in(self, link: str) -> Answer:
        """Opens a link and presses its button."""
        token = link.partition("token=")[2]
        self.get(f"/login?token={token}")
        answer = self.post("/login", token=token)
        assert answer.status == 303, answer
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        """One GET; ``Host=…`` replaces the header, underscores are dashes."""
        return self._ask("GET", path, None, headers)

    def post(self, path: str, headers: dict[str, str] | None = None, /, **form: str) -> Answer:
        """One form, with the headers of a browser on our own page unless others are given ("": none)."""
        return self._ask("POST", path, urlencode(form), {
            "Origin": self.console.origin, "Content-Type": "application/x-www-form-urlencoded", **(headers or {})})

    def act(self, plugin: str, act: str, **form: str) -> Answer:
        """An act from the plugin's page, with its token; the page after it."""
        done = self.post(f"/plugins/{plugin}/{act}", csrf=self.get("/doctor").csrf, **form)
        assert done.status == 303, done
        return self.get(done.headers["location"])

    def put_part(self, path: str, body: bytes, token: str, **headers: str) -> Answer:
        """A part of a file, as our script sends it."""
        return self._ask("POST", path, body, {
            "Origin": self.console.origin, "Content-Type": "application/octet-stream", "X-CSRF": token, **headers})

    def _ask(self, method: str, path: str, body: str | bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(*self.console.host.rsplit(":", 1), timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            given = {"Host": self.console.host, **{key.replace("_", "-"): value for key, value in headers.items()}}
            if self.cookies and "Cookie" not in given:
                given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            if body is not None:
                given["Content-Length"] = str(len(body))
            for key, value in given.items():
                if value:
                    connection.putheader(key, value)
            connection.endheaders(body.encode() if isinstance(body, str) else body)
            reply = connection.getresponse()
            text = reply.read().decode(errors="replace")  # a picture cannot be decoded
            for key, value in reply.getheaders():
                if key.lower() == "set-cookie":
                    name, _, rest = value.partition("=")
                    self.cookies[name] = rest.partition(";")[0].strip('"')
            return Answer(reply.status, {key.lower(): value for key, value in reply.getheaders()}, text)
        finally:
            connection.close()


def wait_until(condition: Any, seconds: float, what: str) -> None:
    """Waits for something that another process does."""
    due = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < due, f"no {what} within {seconds:g} s"
        time.sleep(0.1)
