"""People of the marketplace at the console, in a real Chromium: a reviewer, finance, a manager; every page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.registry.trust.signing import key_id_of, load_private, new_key, raw_public
from tests.console.test_browser import PHOTOGRAPHS, faint
from tests.console.walks import axe_source, comes, complaints, faults, follow, press, seen, sign_in, tab_to, write
from tests.market.shops import at
from tests.registry.test_pictures import png
from tests.support.chromium import WIDTHS, be_wide, chromium, photograph
from tests.support.console import Console, wait_until
from tests.support.daemon import ECHO, USER, Daemon, write_plugin
from tests.support.market import CODE, README, books, close, sell, user, write_sums

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
FIRST, SECOND, MENDED = 1, 2, 3
ICON = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 44 44"><rect width="44" height="44" fill="#0a7"/>'
        '<path d="M10 10h24M10 34h24M10 10l12 12-12 12" stroke="#fff" stroke-width="4" fill="none"/></svg>')
ENTER, TAB = "\ue007", "\ue004"
"""As WebDriver writes these keys."""
PAGES = {"review": "/review", "submission": f"/review/{SECOND}", "source": f"/review/{SECOND}/file?path=plugin.py",
         "comment": f"/review/{SECOND}/file?path=plugin.py&line=10", "market": "/market",
         "diff": f"/review/{SECOND}/file?path=plugin.py&view=diff",
         "offer": "/market/sums", "mine": "/mine", "money": "/money", "month": "/money/2026-09",
         "customer": "/money/2026-09?customer=Customer+1", "invoice": "/money/2026-09/invoice?customer=Customer+1",
         "support": "/support", "ticket": "/support/1"}
MORE = '''

def spread(values):
    """The widest difference."""
    # what if there is none?
    return max(values) - min(values)
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("market")
    kept = books(folder / "d" / "state")
    kept.now_ns = at("2026-07-05")
    shown = write_sums(folder / "one", icon="icon.svg", screenshots=["1.png", "2.png"], licence="MIT", files={
        "icon.svg": ICON}, description="Adds up the orders of a table, refunds included.")
    for number in (1, 2):
        (shown / f"{number}.png").write_bytes(png(64, 40))
    kept.publish(shown)
    for month, count, closed in (("2026-07", 4, "2026-08-02"), ("2026-08", 7, "2026-09-02"), ("2026-09", 9, "")):
        sell(kept, month, "sums", [(user(n + 20 * count), f"Customer {n % 4}") for n in range(count)])
        if closed:
            close(kept, month, closed)
    for hours, subject in ((30, "The sum is wrong for refunds"), (21, "Where is the total?"), (1, "A question")):
        kept.now_ns = time.time_ns() - hours * 3600 * 10**9
        kept("market.ticket.open", plugin="sums", userId=user(hours), subject=subject)
    kept("market.ticket.respond", ticket=1, responder="ann", text="We mend it in 1.1.0.\nThank you.")
    kept.now_ns = time.time_ns()
    kept.scan_warnings = ["plugin.py:10: reads a value of the payload: check what it is"]
    kept("market.submit", submitter="ann", path=str(write_sums(
        folder / "two", version="1.1.0", files={"plugin.py": CODE.format(id="sums", version="1.1.0") + MORE})))
    kept.close()
    write_plugin(folder / "d" / "plugins", "widget", ECHO)
    with Daemon(folder / "d", None) as running:
        running.install(write_plugin(folder / "more", "report", ECHO))
        yield running


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that looks for faults."""
    return axe_source(tmp_path_factory.mktemp("axe"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_both_widths_moves_nothing_and_has_no_serious_fault(
        console: Console, axe: str, scheme: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get(PHOTOGRAPHS) or tmp_path)
    folder.mkdir(exist_ok=True)
    with chromium(tmp_path, scheme) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console, "ann", "reviewer", "finance", "author")
        for name, path in PAGES.items():
            browser.get(console.origin + path)
            assert "That did not work" not in seen(browser), name
            for width in WIDTHS:
                be_wide(browser, width)
                widest = browser.execute_script("return document.documentElement.scrollWidth")
                photograph(browser, folder / f"{name}-{width}-{scheme}.png")
                assert widest <= width, f"{name} is {widest} px wide at {width}"
            assert not faint(browser), (name, faint(browser))
            assert not (found := faults(browser, axe)), (name, found)
            moved, requests = browser.execute_async_script("""
                const done = arguments[0], moves = [];
                new PerformanceObserver((list) => moves.push(...list.getEntries().filter((one) => !one.hadRecentInput)))
                    .observe({ type: "layout-shift", buffered: true });
                setTimeout(() => done([moves.reduce((sum, one) => sum + one.value, 0),
                    1 + performance.getEntriesByType("resource").length]), 300);""")
            be_wide(browser, 1440)
            assert requests <= 30 and moved < 0.1, (name, moved, requests)
        assert not complaints(browser)


def decide(browser: Any, console: Console, number: int, button: str, reason: str) -> None:
    browser.get(f"{console.origin}/review/{number}")
    for box in browser.find_elements("css selector", "fieldset input[type=checkbox]"):
        if not box.is_selected():
            box.click()
    write(browser, "#reason", reason)
    follow(browser, f"button[value={button}]")


@pytest.mark.slow
def test_a_reviewer_reads_comments_refuses_and_approves_what_was_mended_signing_in_the_browser(
        console: Console, daemon: Daemon, tmp_path: Path) -> None:
    path, _ = new_key(tmp_path / "keys", "rita")
    public = raw_public(load_private(path))
    daemon.operate("keys.register", name="rita", role="approver", public_key=public.hex(), owner="rita")
    with chromium(tmp_path) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console, "rita", "reviewer")
        follow(browser, "nav a[href='/review']")
        follow(browser, f"a[href='/review/{SECOND}']")
        follow(browser, "form[action$='/take'] button")
        assert "You review it" in seen(browser)
        follow(browser, "a[href*='file?path=plugin.py'][href$='view=diff']")
        assert "def spread(values):" in seen(browser)  # nothing is folded: the scan has a word on line 10
        browser.get(f"{console.origin}/review/{SECOND}/file?path=plugin.py")
        assert browser.find_elements("css selector", ".t-keyword") and "check what it is" in seen(browser)
        assert browser.find_elements("css selector", ".cover .missed")
        follow(browser, "#line-19 a")
        write(browser, "#text-19", "max() of an empty list raises: please mend it")
        follow(browser, "form[action$='/comment'] textarea[autofocus] ~ .row button")
        assert "please mend it" in seen(browser)
        decide(browser, console, SECOND, "changes_requested", "see my comment on line 19")
        signed(browser, path)
        assert "went back to its author" in seen(browser)
        shown = daemon.operate("market.status", submission=SECOND)
        assert shown["state"] == "changes_requested" and shown["decisions"][0]["keyId"] == key_id_of(public)
        assert shown["comments"][0]["line"] == 19

        kept = books(daemon.state)  # the author mends it
        kept("market.submit", submitter="ann", path=str(write_sums(tmp_path / "mended", version="1.1.1", files={
            "plugin.py": CODE.format(id="sums", version="1.1.1"), "README.md": README + "\nMended.\n"})))
        kept.close()
        decide(browser, console, MENDED, "approved", "mended, and read to the end")
        assert "This is what you sign" in seen(browser) and '"decision":"approved"' in seen(browser)
        signed(browser, path)
        assert "Approved, for exactly these bytes" in seen(browser)
        assert daemon.operate("market.status", submission=MENDED)["state"] == "approved"
        follow(browser, "form[action$='/publish'] button")
        assert "is on offer" in seen(browser)
        assert daemon.operate("market.show", plugin="sums")["version"] == "1.1.1"
        assert not complaints(browser)


def signed(browser: Any, key: Path) -> None:
    """Signs with a key file, which the browser never sends."""
    browser.execute_script("""
        window.sent = []; const form = document.querySelector("form[data-sign]");
        form.submit = () => { sessionStorage.sent = new URLSearchParams(new FormData(form)).toString();
                              HTMLFormElement.prototype.submit.call(form); };""")
    browser.find_element("id", "key-file").send_keys(str(key))
    follow(browser, "form[data-sign] button")
    sent = browser.execute_script("return sessionStorage.sent")
    body = "".join(key.read_text().splitlines()[1:-1])
    assert "signature=" in sent and "PRIVATE" not in sent and body[:20] not in sent and key.name not in sent


def test_a_wrong_key_signs_nothing_and_the_page_says_why(console: Console, daemon: Daemon, tmp_path: Path) -> None:
    path, _ = new_key(tmp_path / "keys", "paula")
    daemon.operate("keys.register", name="paula", role="approver", owner="paula",
                   public_key=raw_public(load_private(path)).hex())
    asks = '@plugin.hook("onActionExecute")\ndef act(context, params):\n    context.api.call("admin.users.list")\n'
    daemon.operate("plugin.install", path=str(write_plugin(tmp_path / "other", "needy", asks,
                                                           permissions=("admin:users",))))
    other, _ = new_key(tmp_path / "other-keys", "mallory")
    with chromium(tmp_path) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console, "paula", "approver")

        def ask() -> None:
            browser.get(f"{console.origin}/approvals")
            write(browser, "textarea[name=reason]", "they need it")
            (option,) = [one for one in browser.find_elements("css selector", "select[name=key] option")
                         if one.text == "paula"]
            option.click()
            follow(browser, "form[action$='/approve'] button")

        ask()
        browser.find_element("id", "key-file").send_keys(str(path.with_suffix(".pub")))
        press(browser, "form[data-sign] button")
        comes(browser, "has no private key")
        ask()
        signed(browser, other)
        assert "is not signed by paula" in seen(browser)
        assert daemon.operate("plugin.show", id="needy")["state"] == "pending_approval"
        ask()
        signed(browser, path)
        assert "needy: approved, signed with your key" in seen(browser)
        (kept,) = daemon.operate("plugin.show", id="needy")["approvals"]
        assert kept["state"] == "approved" and kept["reason"] == "they need it"


def test_finance_closes_a_month_and_prints_an_invoice_by_keyboard_alone(console: Console, daemon: Daemon,
                                                                        tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console, "fay", "finance")
        tab_to(browser, "nav a[href='/money']", ENTER)
        tab_to(browser, "main a[href='/money/2026-09']", ENTER)
        wait_until(lambda: browser.find_elements("css selector", "#sure"), 60, "statement")
        tab_to(browser, "#sure", "2026-09", ENTER)
        comes(browser, "2026-09 closed")
        assert daemon.operate("billing.months")["months"][0]["month"] == "2026-09"
        tab_to(browser, "a[href='/money/2026-09?customer=Customer+1']", ENTER)
        tab_to(browser, "a[href^='/money/2026-09/invoice']", ENTER)
        comes(browser, "final: the month is closed")
        assert "To pay" in seen(browser)
        data = browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
        assert len(data) > 5000
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert not browser.find_element("css selector", "header.top").is_displayed()
        folder = Path(os.environ.get(PHOTOGRAPHS) or tmp_path)
        photograph(browser, folder / "invoice-printed.png")
        assert not complaints(browser)


def test_a_manager_enables_a_plugin_for_one_user_by_keyboard_alone(console: Console, daemon: Daemon,
                                                                   tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        be_wide(browser, 390)
        sign_in(browser, console, "mara", "operator")
        tab_to(browser, "nav a[href='/plugins']", ENTER)
        tab_to(browser, "input[type=search]", "repo", ENTER)
        tab_to(browser, "a[href='/plugins/report']", ENTER)
        tab_to(browser, "form[action$='/disable'] button", ENTER)
        comes(browser, "report is disabled for everybody")
        tab_to(browser, ".orders summary", ENTER)
        tab_to(browser, "#user", USER, ENTER)
        comes(browser, f"report is enabled for user {USER}")
        assert daemon.operate("plugin.show", id="report")["users"] == [USER]
        assert not complaints(browser)


def test_a_reviewer_takes_a_submission_and_comments_on_a_line_by_keyboard_alone(console: Console, daemon: Daemon,
                                                                                tmp_path: Path) -> None:
    kept = books(daemon.state)
    one = kept("market.submit", submitter="ann", path=str(write_sums(tmp_path / "tallies", "tallies")))["id"]
    kept.close()
    with chromium(tmp_path) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console, "kim", "reviewer")
        tab_to(browser, "nav a[href='/review']", ENTER)
        tab_to(browser, f"a[href='/review/{one}']", ENTER)
        tab_to(browser, "form[action$='/take'] button", ENTER)
        comes(browser, "You review it")
        tab_to(browser, "a[href*='file?path=plugin.py']", ENTER)
        tab_to(browser, "#line-11 a", ENTER)
        tab_to(browser, "#text-11", "what if it is None?", TAB, ENTER)
        comes(browser, "what if it is None?")
        (comment,) = daemon.operate("market.status", submission=one)["comments"]
        assert (comment["line"], comment["reviewer"]) == (11, "kim")
        assert not complaints(browser)
