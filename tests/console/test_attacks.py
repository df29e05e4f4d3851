"""Attacks on a real console beside a real daemon: hostile text, other sites, forged cookies, roles, floods. They get
nothing."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from apex_exec.client import CallError
from apex_exec.config import ROLES
from apex_exec.console.acts import ACTS
from apex_exec.console.guard import CSP
from apex_exec.console.rendering import TEMPLATES
from apex_exec.daemon.administration.role_table import role_needed
from apex_exec.ledger.reading import Filter, read_events
from tests.console.pages_of_ours import MARK, text_of
from tests.support.console import Answer, Browser, Console
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin

HOSTILE = (f"<script>{MARK}()</script>", f'"><{MARK} onerror={MARK}()>', f"'><img src=x onerror={MARK}()>",
           f"</pre></title></textarea><svg onload={MARK}()>", f"javascript:{MARK}()", f"{{{{ {MARK} }}}}{{% {MARK} %}}",
           f"\x1b[31m{MARK}\x1b]0;owned\x07", f"\u202e{MARK}\u2066", f"<!--{MARK}", f"&lt;{MARK}&gt;")
"""Markup, attributes, schemes, templates, terminal codes, turned text, comments, entities."""
NAME = f"<b {MARK}>Evil</b>"
CODE = f'''
TEXTS = {HOSTILE!r}

@plugin.hook("onActionExecute")
def act(context, params):
    for text in TEXTS:
        print(text)
        context.log.info(text)
    print("x" * 1_000_000)
    raise ValueError(" ".join(TEXTS))
'''
PAGES = ("/", "/?by=cpu", "/plugins", "/plugins/evil", "/plugins/victim", "/approvals", "/audit", "/audit?looks=1",
         "/doctor", "/login")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "evil", CODE, name=NAME, author=HOSTILE[0])
    victim = write_plugin(tmp_path_factory.mktemp("other"), "victim", ECHO, name="Victim")
    with Daemon(plugins=plugins) as running:
        for _ in range(3):
            with contextlib.suppress(CallError):
                running.invoke("evil", "onActionExecute", {"action": "x", "context": {}})
        running.install(victim)
        yield running


@pytest.fixture(scope="module")
def anna(console: Console) -> Browser:
    return console.browser("anna", "operator")


def recorded(daemon: Daemon, action: str, name: str) -> Any:
    """The latest record of what a person had done."""
    found = [event for event in read_events(daemon.state / "audit.db", Filter(event_types=("admin.action",)))
             if event.action == action and event.metadata.get("actor", {}).get("name") == name]
    return found[-1] if found else None


# ------------------------------------------------------------------ what plugins and strangers write is text
@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_anything_of_a_plugin_but_text(anna: Browser, path: str) -> None:
    answer = anna.get(path)
    assert answer.status == 200
    text = text_of(answer.body)
    if path == "/plugins/evil":
        assert f"{NAME} by {HOSTILE[0]}" in text
        assert f"ValueError: {HOSTILE[0]}" in text and "Traceback" in text and f"\\x1b[31m{MARK}" in text


@pytest.mark.slow_after(4)
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("field", ["/plugins?q={}", "/plugins?state={}", "/plugins?page={}", "/plugins/{}",
                                   "/audit?text={}", "/audit?plugin={}&user={}", "/audit?type={}&before={}", "/?by={}"])
def test_what_an_address_says_is_text(anna: Browser, field: str, hostile: str) -> None:
    answer = anna.get(field.replace("{}", quote(hostile, safe="")))
    assert answer.status in (200, 400, 404) and "Traceback" not in answer.body
    text_of(answer.body)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_reason_is_text_wherever_it_is_shown(anna: Browser, daemon: Daemon, hostile: str) -> None:
    try:
        shown = anna.act("victim", "quarantine", reason=f"because {hostile}")
        assert "victim is stopped: because" in text_of(shown.body)
        for path in ("/plugins?q=victim", "/plugins/victim"):
            assert "because" in text_of(anna.get(path).body)
        wait_for(lambda: "because" in text_of(anna.get("/audit?plugin=victim").body), 10, "its record")
        assert "victim is released" in text_of(anna.act("victim", "release").body)
    finally:  # the other tests find the plugin as it was
        anna.act("victim", "enable")


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("name", [HOSTILE[0], HOSTILE[1], "a" * 200])
def test_a_persons_name_is_text(console: Console, name: str) -> None:
    page = console.browser(name, "viewer").get("/")
    assert name in text_of(page.body)


def test_no_template_declares_anything_safe_and_every_answer_has_its_walls(anna: Browser) -> None:
    unsafe = re.compile(r"\|\s*safe|Markup|autoescape|\bstyle=|\bon[a-z]+=|<script(?! src)|javascript:")
    for path in TEMPLATES.iterdir():
        source = path.read_text("utf-8")
        assert not unsafe.search(source), path
        assert not re.search(r"\s[\w-]+=\{\{", source), f"{path}: an attribute without quotes"
    for answer in (*map(anna.get, (*PAGES, "/nope", "/static/console.js", "/static/console.css")),
                   anna.post("/plugins/victim/enable"), anna.get("/", Host="evil.example"),
                   anna.get("/plugins", X_Fragment="1")):
        assert answer.headers["content-security-policy"] == CSP and "unsafe" not in CSP
        assert answer.headers["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in CSP
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "python" not in answer.headers["server"].lower()
        assert "access-control-allow-origin" not in answer.headers


# ------------------------------------------------------------------ other sites, other names
@pytest.mark.slow_after(5)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "evil.example:{port}",
                                  "127.0.0.1:{port}.evil.example", "127.0.0.1:{port}@evil.example", "", "[::1]:{port}",
                                  "2130706433:{port}", "127.1:{port}", "0.0.0.0:{port}"])
def test_a_name_that_is_not_ours_gets_nothing(console: Console, anna: Browser, host: str) -> None:
    port = console.host.rpartition(":")[2]
    answer = anna.get("/plugins", Host=host.format(port=port))
    assert answer.status in (400, 421) and "victim" not in answer.body


@pytest.mark.slow_after(5)
@pytest.mark.parametrize("origin", ["", "null", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1",
                                    "https://{host}", "http://{host}.evil.example", "http://evil.example#{origin}",
                                    "{origin}/", "file://"])
def test_a_form_of_another_site_does_nothing(console: Console, anna: Browser, daemon: Daemon, origin: str) -> None:
    token = anna.get("/doctor").csrf
    answer = anna.post("/plugins/victim/quarantine", {
        "Origin": origin.format(host=console.host, origin=console.origin)}, csrf=token, reason="from elsewhere")
    assert answer.status == 403 and "another site" in answer.body
    assert daemon.operate("plugin.live", id="victim")["state"] == "enabled"


@pytest.mark.parametrize("token", ["", "x", "{other}", "{own}x"])
def test_a_form_without_this_sessions_token_does_nothing(console: Console, anna: Browser, daemon: Daemon,
                                                         token: str) -> None:
    other = console.browser("ben", "operator").get("/doctor").csrf
    given = token.format(other=other, own=anna.get("/doctor").csrf)
    answer = anna.post("/plugins/victim/quarantine", csrf=given, reason="forged")
    assert answer.status == 403 and "belongs to an earlier session" in answer.body
    assert daemon.operate("plugin.live", id="victim")["state"] == "enabled"


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data; boundary=x", ""])
def test_a_form_of_another_type_does_nothing(anna: Browser, kind: str) -> None:
    token = anna.get("/doctor").csrf
    assert anna.post("/plugins/victim/disable", {"Content-Type": kind}, csrf=token).status == 415


def test_nothing_is_done_by_a_get_and_a_large_form_is_refused(anna: Browser, daemon: Daemon) -> None:
    for act in ACTS:
        assert anna.get(f"/plugins/victim/{act}?csrf={anna.get('/doctor').csrf}&reason=x").status == 405
    assert anna.post("/plugins/victim/quarantine", csrf=anna.get("/doctor").csrf, reason="x" * 70_000).status == 413
    assert "longer than 500 characters" in anna.act("victim", "quarantine", reason="x" * 501).body
    assert "Say why" in anna.act("victim", "quarantine", reason="  ").body
    assert daemon.operate("plugin.live", id="victim")["state"] == "enabled"


def test_an_answer_leads_nowhere_else(anna: Browser) -> None:
    token = anna.get("/doctor").csrf
    for back in ("https://evil.example", "//evil.example", "/\\evil.example", "/login?token=x", "/plugins?q=a\r\nX: y"):
        answer = anna.post("/plugins/evil/restart", csrf=token, back=back)
        assert answer.status == 303 and re.fullmatch(r"/plugins(/evil|\?q=[^\r\n]*)", answer.headers["location"]), back
        assert "x" not in answer.headers


# ------------------------------------------------------------------ who may what
OFFERED = {act.operation: name for name, act in ACTS.items()}


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("role", [role for role in ROLES if role not in ("operator", "admin")])
def test_each_role_is_refused_what_is_not_its_own_by_the_daemon(console: Console, daemon: Daemon, role: str) -> None:
    browser = console.browser(f"person-{role}", role)
    assert browser.get("/").status == browser.get("/plugins").status == browser.get("/doctor").status == 200
    refused = browser.get("/audit")
    assert refused.status == 403 and "--role operator" in text_of(refused.body)
    page = browser.get("/plugins/victim")
    assert page.status == 200 and "The log needs the role operator" in page.body
    assert not re.search(r'action="/plugins/victim/', page.body), "it is not even offered"
    for operation, act in OFFERED.items():
        assert role_needed(operation) == "operator"
        shown = browser.act("victim", act, reason="because I can", user=USER, digest="0" * 64, sure="victim")
        assert f"needs the role operator; person-{role}" in text_of(shown.body)
    assert daemon.operate("plugin.live", id="victim")["state"] == "enabled"
    wait_for(lambda: recorded(daemon, "plugin.quarantine", f"person-{role}"), 10, "its record")
    record = recorded(daemon, "plugin.quarantine", f"person-{role}")
    assert (record.result, record.metadata["reason"]) == ("denied", "role_missing")


def test_what_a_person_has_done_is_recorded_under_the_name(console: Console, anna: Browser, daemon: Daemon) -> None:
    assert "is stopped: it misbehaves" in text_of(anna.act("victim", "quarantine", reason="it misbehaves").body)
    assert daemon.operate("plugin.live", id="victim")["state"] == "quarantined"
    wait_for(lambda: recorded(daemon, "plugin.quarantine", "anna"), 10, "its record")
    record = recorded(daemon, "plugin.quarantine", "anna")
    assert record.metadata["actor"] == {"name": "anna", "roles": ["operator"]} and record.result == "success"
    assert "anna" in text_of(anna.get("/audit?plugin=victim&type=admin.action").body)
    assert "victim is released" in text_of(anna.act("victim", "release").body)
    told = text_of(console.browser("ben", "operator").act("victim", "release").body)
    assert "Nothing has changed: victim was disabled already" in told, "the second of two people is told"
    anna.act("victim", "enable")
    for act in ("restart", "reset", "disable", "enable"):
        assert 'class="note done"' in anna.act("victim", act).body
    one = anna.act("victim", "disable").body and anna.act("victim", "enable", user=USER)
    assert f"enabled for user {USER}" in text_of(one.body) and f"1 user: {USER}" in text_of(one.body)
    anna.act("victim", "enable")


def test_a_page_that_stays_open_is_one_look_and_another_question_is_another(console: Console, daemon: Daemon) -> None:
    browser = console.browser("paul", "viewer")
    for path in ("/", "/doctor", "/doctor", "/doctor", "/plugins?q=a", "/plugins?q=b", "/plugins?q=a"):
        assert browser.get(path).status == 200
    browser.act("victim", "restart")

    def looks(action: str) -> list[str]:
        return [event.result for event in read_events(daemon.state / "audit.db", Filter(event_types=("admin.action",)))
                if event.action == action and event.metadata.get("actor", {}).get("name") == "paul"]

    wait_for(lambda: looks("plugin.restart"), 10, "the record of what came last")
    assert not looks("fleet.status"), "a daemon that is in no fleet is not asked for its nodes"
    assert looks("daemon.doctor") == ["success"] and looks("plugin.find") == ["success"] * 2
    assert looks("plugin.restart") == ["denied"]
    assert browser.get("/audit").status == browser.get("/audit").status == 403
    wait_for(lambda: len(looks("audit.events")) == 2, 10, "the record of each that was refused")


# ------------------------------------------------------------------ links, cookies, floods
def test_a_link_that_was_used_signs_nobody_in_and_the_page_says_what_that_may_mean(console: Console) -> None:
    link = console.link("carl", "viewer")
    first, second = console.browser(), console.browser()
    first.sign_in(link)
    token = link.partition("token=")[2]
    for answer in (second.get(f"/login?token={token}"), second.post("/login", token=token)):
        assert answer.status == 403 and "somebody else may have" in answer.body and "set-cookie" not in answer.headers
    assert second.get("/plugins").status == 303


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_new_with_every_sign_in(console: Console) -> None:
    browser = console.browser()
    browser.cookies["apex-console-" + console.host.rpartition(":")[2]] = "chosen-by-an-attacker"
    answer = browser.sign_in(console.link("dora", "viewer"))
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie and "Domain" not in cookie
    (before,) = browser.cookies.values()
    assert before != "chosen-by-an-attacker" and len(before) == 43
    browser.sign_in(console.link("dora", "viewer"))
    stolen = Browser(console)
    stolen.cookies = dict.fromkeys(browser.cookies, before)
    assert stolen.get("/plugins").status == 303, "the session before has ended"
    token = browser.get("/doctor").csrf
    assert browser.post("/logout", csrf=token).status == 303
    assert browser.get("/plugins").status == 303


def test_forged_cookies_and_a_flood_of_wrong_links_are_stopped_and_a_right_link_works(console: Console) -> None:
    statuses = []
    for number in range(15):
        browser = console.browser()
        browser.cookies["apex-console-" + console.host.rpartition(":")[2]] = f"{number:043d}"
        statuses.append(browser.get("/plugins").status)
    for number in range(15):
        statuses.append(console.browser().post("/login", token=f"{number:043d}").status)
    assert statuses.count(429) >= 15 and set(statuses) <= {303, 403, 429}
    refused: Answer = console.browser().get("/login?token=x")
    assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1
    assert console.browser("erik", "viewer").get("/plugins").status == 200


@pytest.mark.slow
def test_only_its_own_user_has_links_made_and_a_person_can_be_signed_out(console: Console, daemon: Daemon) -> None:
    assert (console.folder / "console.sock").stat().st_mode & 0o777 == 0o600
    assert console.folder.stat().st_mode & 0o777 == 0o700
    browser = console.browser("frida", "viewer")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "apex_exec", "console", *words, "--config",
                               str(daemon.config_file)], capture_output=True, text=True, timeout=60)

    assert "frida" in run("sessions").stdout
    assert run("end", "frida").stdout == "frida: 1 sessions and 0 links are ended\n"
    assert browser.get("/plugins").status in (303, 429)  # the flood above may not be over yet
    made = run("link", "gina", "--role", "operator", "--role", "viewer")
    browser.sign_in(made.stdout.strip())
    assert "operator, viewer" in text_of(browser.get("/").body)
    wrong = run("link", "a\nb")
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1 and "printable" in wrong.stderr


@pytest.mark.slow
def test_a_second_console_on_the_same_folder_is_refused_in_one_line(console: Console, daemon: Daemon) -> None:
    done = subprocess.run([sys.executable, "-m", "apex_exec", "console", "--config", str(daemon.config_file),
                           "--address", "127.0.0.1:0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"a console is already running on {console.folder}" in done.stderr
    assert f"(pid {console.process.pid})" in done.stderr


def test_the_console_says_nothing_of_a_fault_in_all_of_this(console: Console) -> None:
    """The last of this file: no page of those above has failed."""
    assert console.stop() == 0
    assert console.process.stderr is not None
    said = console.process.stderr.read()
    assert "Traceback" not in said and "ERROR" not in said, said[-3000:]
    assert not Path(console.folder / "console.sock").exists()
