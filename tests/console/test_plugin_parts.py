"""A plugin's settings, a hook that is tried, an upgrade and an icon, on a real console beside a real daemon."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.console.pictures import CSP
from apex_exec.console.upgrade_pages import PART_BYTES_MAX
from apex_exec.registry.bundles.bundle import make_bundle, pack
from tests.console.pages_of_ours import MARK, text_of
from tests.console.test_attacks import HOSTILE
from tests.registry.test_pictures import GOOD
from tests.support.console import Answer, Browser, Console
from tests.support.daemon import ECHO, USER, Daemon, write_plugin

SECRET = "sk-live-0123456789abcdef"
SETTINGS = {"properties": {
    "region": {"type": "string", "enum": ["eu", "us"], "default": "eu", "title": HOSTILE[0]},
    "rows": {"type": "integer", "maximum": 9, "description": HOSTILE[1]},
    "apiKey": {"type": "string", "secret": True}}}
CODE = f'''
from workers import Plugin

plugin = Plugin(id="PLUGIN", version="VERSION", permissions=["ui:render", "events:emit"])
TEXTS = {HOSTILE!r}


@plugin.hook("onDashboardLoad")
def load(context, params):
    BODY
    for text in TEXTS:
        context.api.emit("said", {{"text": text, "region": context.settings["region"]}})
    return {{"customWidgets": [{{"id": "w", "component": "Text", "props": {{"text": TEXTS[0]}}}}]}}
'''


def bundle(version: str, body: str = "pass", id_: str = "shown", size: int = 0) -> bytes:
    manifest = {"id": id_, "name": f"<b {MARK}>Shown</b>", "version": version, "author": "ACME", "icon": "icon.svg",
                "permissions": ["ui:render", "events:emit"], "settings": SETTINGS,
                "manifest": {"entrypoint": "plugin.py", "hooks": ["onDashboardLoad"]}}
    code = CODE.replace("PLUGIN", id_).replace("VERSION", version).replace("BODY", body)
    noise = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(size // 32))  # does not shrink
    return pack(make_bundle({"manifest.json": json.dumps(manifest).encode(), "plugin.py": code.encode(),
                             "icon.svg": GOOD, **({"noise.bin": noise} if size else {})}, "x"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "plain", ECHO)
    with Daemon(plugins=plugins) as running:
        running.operate("plugin.install", bundle=bundle("1.0.0"))
        running.operate("plugin.enable", id="shown")
        yield running


@pytest.fixture(scope="module")
def anna(console: Console) -> Browser:
    return console.browser("anna", "operator")


def save(browser: Browser, query: str = "", **form: str) -> Answer:
    page = browser.get(f"/plugins/shown/settings{query}")
    revision = page.body.partition('name="revision" value="')[2].partition('"')[0]
    done = browser.post("/plugins/shown/settings", csrf=page.csrf, **{"revision": revision, **{
        key.replace("_", "-"): value for key, value in form.items()}})
    assert done.status == 303, done
    return browser.get(done.headers["location"])


# ------------------------------------------------------------------ settings
def test_settings_are_set_from_the_page_and_a_secret_goes_in_and_never_out(anna: Browser, daemon: Daemon) -> None:
    page = save(anna, value_region='"us"', value_apiKey=SECRET)
    text = text_of(page.body)
    assert "Saved: apiKey, region. The next call has it." in text and HOSTILE[0] in text
    assert SECRET not in page.body and "set; type another to replace it" in page.body
    kept = {one["name"]: one for one in daemon.operate("plugin.settings.get", id="shown")["settings"]}
    assert (kept["region"]["value"], kept["apiKey"]["set"], "value" in kept["apiKey"]) == ("us", True, False)
    assert "a number" in text_of(save(anna, value_rows="true").body)
    assert "rows" in text_of(save(anna, value_rows="12").body), "the daemon's word on a value that does not fit"
    assert "Saved: region (taken back)" in text_of(save(anna, unset_region="1").body)
    assert "Nothing was changed" in text_of(save(anna, value_region='"eu"').body)
    assert not any(SECRET.encode() in path.read_bytes() for path in daemon.state.rglob("*") if path.is_file())


def test_a_user_has_values_of_its_own_and_an_owner_that_cannot_be_is_refused(anna: Browser, daemon: Daemon) -> None:
    page = save(anna, f"?user={USER}", user=USER, value_rows="3")
    assert f"Values of user {USER}" in text_of(page.body) and "set for this user" in page.body
    assert daemon.operate("plugin.settings.get", id="shown", user=USER)["settings"][1]["value"] == 3
    assert "is not a UUID" in text_of(anna.get("/plugins/shown/settings?user=me").body)
    assert "which tenant" in text_of(anna.get("/plugins/shown/settings?tenant=7").body)


def test_the_second_of_two_people_is_told_and_changes_nothing(anna: Browser, console: Console, daemon: Daemon) -> None:
    ben = console.browser("ben", "operator")
    page = ben.get("/plugins/shown/settings")
    before = page.body.partition('name="revision" value="')[2].partition('"')[0]
    assert "Saved: rows" in text_of(save(anna, value_rows="5").body)
    told = text_of(save(ben, revision=before, value_rows="6").body)
    assert "somebody else has changed these settings since you read them" in told
    assert daemon.operate("plugin.settings.get", id="shown")["settings"][1]["value"] == 5


# ------------------------------------------------------------------ a hook that is tried
def tried(browser: Browser, **form: str) -> Answer:
    token = browser.get("/doctor").csrf
    return browser.post("/plugins/shown/try", csrf=token, hook="onDashboardLoad", **form)


def test_a_preview_shows_result_and_effects_as_text_and_no_host_gets_them(anna: Browser, daemon: Daemon) -> None:
    text = text_of(tried(anna).body)
    assert "onDashboardLoad of 1.0.0 answered in" in text and "customWidgets" in text and "shown/said" in text
    assert f"<script>{MARK}()</script>" in text
    assert "not JSON" in text_of(tried(anna, payload="{").body)
    assert "has to be an object" in text_of(tried(anna, payload="[1]").body)
    wrong = text_of(tried(anna, payload='{"dashboard": 1}').body)
    assert '{"dashboard": 1}' in wrong and "missing required field `dashboardId`" in wrong, "what was written stays"
    named = text_of(tried(anna, payload=f'{{"dashboardId": "x", "userId": "{USER}"}}').body)
    assert "payload.userId must be the caller" in named, "nobody sees by a preview what a user may see"
    listing = daemon.operate("audit.events", text="plugin.preview", limit=5)["events"]
    assert listing and listing[0]["metadata"]["actor"]["name"] == "anna"


def test_a_plugin_of_the_folder_is_tried_too_and_has_neither_settings_nor_an_icon(anna: Browser) -> None:
    page = anna.post("/plugins/plain/try", csrf=anna.get("/doctor").csrf, hook="onActionExecute")
    assert "onActionExecute of" in text_of(page.body)
    assert "has no settings" in text_of(anna.get("/plugins/plain/settings").body)
    assert anna.get("/plugins/plain/icon").status == 404
    assert "put the new version into its folder" in text_of(anna.get("/plugins/plain/upgrade").body)


# ------------------------------------------------------------------ an upgrade
def send(browser: Browser, data: bytes, token: str, part: int = PART_BYTES_MAX) -> Answer:
    digest, answer = hashlib.sha256(data).hexdigest(), None
    for offset in range(0, len(data), part):
        answer = browser.put_part(f"/plugins/shown/upgrade/part?digest={digest}&offset={offset}",
                                  data[offset:offset + part], token)
        if answer.status != 200:
            return answer
    assert answer is not None
    return answer


def upgraded(browser: Browser, data: bytes) -> str:
    token = browser.get("/doctor").csrf
    assert send(browser, data, token).status == 200
    done = browser.post("/plugins/shown/upgrade", csrf=token, upload=hashlib.sha256(data).hexdigest(), hook="")
    assert done.status == 303, done
    due = time.monotonic() + 90
    while "so far" in (text := text_of(browser.get("/plugins/shown/upgrade").body)):
        assert time.monotonic() < due, text
        time.sleep(0.1)
    return text


def test_an_upgrade_is_tried_beside_what_serves_and_one_that_fails_changes_nothing(anna: Browser,
                                                                                   daemon: Daemon) -> None:
    text = upgraded(anna, bundle("1.1.0", size=2 * PART_BYTES_MAX))  # in three parts
    assert "From 1.0.0 to 1.1.0" in text and "begun by anna" in text and "It asks for the same as before" in text
    assert daemon.operate("plugin.live", id="shown")["version"] == "1.1.0"
    failed = upgraded(anna, bundle("1.2.0", "raise KeyError('quarter')"))
    assert "KeyError: 'quarter'" in failed and "1.1.0 serves on" in failed
    assert daemon.operate("plugin.live", id="shown")["version"] == "1.1.0"
    assert "is not newer" in upgraded(anna, bundle("1.0.1"))
    other = upgraded(anna, bundle("9.0.0", id_="another"))
    assert "a version of another, not of" in other, "the page's plugin is meant, whatever the file says"
    assert "1.1.0" in text_of(anna.get("/plugins/shown").body)


def test_a_part_that_is_forged_too_large_or_no_part_is_refused(anna: Browser, console: Console) -> None:
    token, data = anna.get("/doctor").csrf, b"x" * 10
    place = f"/plugins/shown/upgrade/part?digest={hashlib.sha256(data).hexdigest()}&offset=0"
    assert anna.put_part(place, data, "").status == anna.put_part(place, data, "0" * 64).status == 403
    assert anna.put_part(place, data, token, Origin="https://evil.example").status == 403
    assert console.browser().put_part(place, data, token).status == 401
    assert anna.put_part(place, b"x" * (PART_BYTES_MAX + 1), token).status == 413
    assert anna.put_part("/plugins/shown/upgrade/part?digest=..%2F..&offset=0", data, token).status == 400
    assert anna.put_part(place.replace("offset=0", "offset=9"), data, token).status == 400
    assert anna.put_part("/plugins/shown/settings", data, token).status == 415
    assert anna.post("/plugins/shown/upgrade/part", csrf=token).status == 415
    page = anna.post("/plugins/shown/upgrade", csrf=token, upload="../../etc/passwd")
    assert page.status == 303 and "No file has arrived" in text_of(anna.get("/plugins/shown/upgrade").body)


# ------------------------------------------------------------------ roles, pictures, text
@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_who_may_only_look_is_offered_nothing_and_refused_by_the_daemon(console: Console, role: str,
                                                                        daemon: Daemon) -> None:
    browser = console.browser(f"vera-{role}", role)
    token = browser.get("/doctor").csrf
    assert browser.get("/plugins/shown/settings").status == 403
    assert browser.post("/plugins/shown/settings", csrf=token, **{"value-rows": "2"}).status == 403
    assert "you need the role operator" in text_of(browser.get("/plugins/shown/try").body)
    assert "needs the role operator" in text_of(tried(browser).body)
    assert "you need the role operator" in text_of(browser.get("/plugins/shown/upgrade").body)
    assert send(browser, bundle("3.0.0"), token).status == 400
    version = daemon.operate("plugin.live", id="shown")["version"]
    assert version != "3.0.0" and browser.get("/plugins/shown/icon").status == 200


def test_an_icon_can_run_nothing_and_is_kept_by_the_browser(anna: Browser) -> None:
    page = anna.get("/plugins/shown")
    text_of(page.body)
    address = page.body.partition('<img class="icon" src="')[2].partition('"')[0]
    assert address.startswith("/plugins/shown/icon?v=")
    icon = anna.get(address)
    assert (icon.status, icon.headers["content-type"]) == (200, "image/svg+xml") and icon.body.encode() == GOOD
    assert icon.headers["content-security-policy"] == CSP and "sandbox" in CSP and "default-src 'none'" in CSP
    assert icon.headers["x-content-type-options"] == "nosniff" and "attachment" in icon.headers["content-disposition"]
    assert icon.headers["cache-control"].startswith("private") and icon.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("part", ["settings", "try", "upgrade"])
def test_a_plugin_that_is_not_there_has_no_parts(anna: Browser, part: str) -> None:
    answer = anna.get(f"/plugins/nobody/{part}")
    assert answer.status == 404
    text_of(answer.body)


def test_the_console_says_nothing_of_a_fault_in_all_of_this(console: Console) -> None:
    """Runs last: one that failed is a fault of ours."""
    assert console.stop() == 0
    assert console.process.stderr is not None
    said: Any = console.process.stderr.read()
    assert "Traceback" not in said and "failed" not in said and SECRET not in said, said
