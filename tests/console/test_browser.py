"""People at the console, in a real Chromium: an operator finds what spins, stops it, and every page looks right."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import CallError
from tests.console.walks import axe_source, comes, complaints, faults, follow, press, sign_in, tab_to
from tests.support.chromium import WIDTHS, be_wide, chromium, photograph
from tests.support.console import Console, wait_until
from tests.support.daemon import ECHO, EXAMPLES, Daemon, write_plugin

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
PHOTOGRAPHS = "APEXTEST_PHOTOGRAPHS"
"""Names a folder in which the run leaves its photographs; without it they go with the run's folder."""
PLUGINS = 50
SPIN = {"action": "spin", "context": {}}
PAGES = {"overview": "/", "plugins": "/plugins", "plugin": "/plugins/spinner", "settings": "/plugins/spinner/settings",
         "try": "/plugins/spinner/try", "upgrade": "/plugins/spinner/upgrade", "approvals": "/approvals",
         "audit": "/audit", "doctor": "/doctor"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    for number in range(PLUGINS - 1):
        write_plugin(plugins, f"widget-{number:02d}", ECHO)
    with Daemon(plugins=plugins) as running:
        running.install(EXAMPLES / "spinner")
        for number in range(PLUGINS - 1):
            running.invoke(f"widget-{number:02d}", "onActionExecute", {"action": "x", "context": {}})
        for _ in range(3):
            with contextlib.suppress(CallError):
                running.invoke("spinner", "onActionExecute", SPIN)
        yield running


def test_an_operator_finds_the_plugin_that_spins_in_three_clicks_and_stops_it(
        console: Console, daemon: Daemon, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console)
        wait_until(lambda: "spinner failed" in browser.execute_script(
            "return document.querySelector('.verdict').textContent"), 30, "sentence")
        follow(browser, "section.card table tbody tr:first-child a")  # the worst: one
        assert browser.find_element("css selector", "h1").text.startswith("spinner")
        assert "TIMEOUT" in browser.execute_script("return document.getElementById('failures').textContent")
        press(browser, "#reason")  # two
        browser.find_element("id", "reason").send_keys("it spins")
        follow(browser, "button.danger")  # three
        comes(browser, "spinner is stopped: it spins")
        assert daemon.operate("plugin.live", id="spinner")["state"] == "quarantined"
        with pytest.raises(CallError, match="PLUGIN_DISABLED"):
            daemon.invoke("spinner", "onActionExecute", SPIN)
        assert not complaints(browser)
    daemon.operate("plugin.release", id="spinner")
    daemon.operate("plugin.enable", id="spinner")


def test_the_overview_lives_and_says_when_the_daemon_is_away(console: Console, daemon: Daemon, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console)
        calls = browser.find_element("css selector", ".facts").text

        def verdict() -> str:
            return str(browser.execute_script("return document.querySelector('.verdict').textContent"))

        wait_until(lambda: browser.find_elements("css selector", "figure.plot polyline"), 30, "line of calls")
        daemon.kill()
        wait_until(lambda: "does not answer" in verdict(), 30, "word of the daemon's end")
        daemon.start()
        wait_until(lambda: "does not answer" not in verdict(), 60, "page after the daemon came back")
        assert calls and browser.find_elements("css selector", ".tiles")


def test_everything_is_reached_by_the_keyboard_alone(console: Console, daemon: Daemon, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    with chromium(tmp_path) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console)
        browser.get(f"{console.origin}/plugins/spinner")
        seen: list[str] = []
        for _ in range(40):
            ActionChains(browser).send_keys(Keys.TAB).perform()  # to whatever has the focus: the page renews itself
            name, outline = browser.execute_script(
                "const one = document.activeElement; return [one === document.body ? '' : one.id ||"
                " one.textContent.trim() || one.tagName, getComputedStyle(one).outlineStyle]")
            if not name:
                break  # once around the page
            seen.append(name)
            assert outline != "none", f"{name} has the focus and does not show it"
        assert seen[0] == "Skip to the content"
        for wanted in ("Overview", "Plugins", "Audit", "Doctor", "reason", "Quarantine"):
            assert wanted in seen, (wanted, seen)
        assert any(one.startswith("Restart its worker") for one in seen), seen
        tab_to(browser, "#reason", "it spins too long", Keys.ENTER)
        comes(browser, "spinner is stopped: it spins too long")
        tab_to(browser, "form[action$='/release'] button", Keys.ENTER)
        comes(browser, "spinner is released")
        tab_to(browser, "form[action$='/enable'] button", Keys.ENTER)
        comes(browser, "spinner is enabled for everybody")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_both_widths_and_breaks_no_rule(console: Console, daemon: Daemon, scheme: str,
                                                        tmp_path: Path) -> None:
    axe = axe_source(tmp_path / "axe")
    folder = Path(os.environ.get(PHOTOGRAPHS) or tmp_path)
    folder.mkdir(exist_ok=True)
    with chromium(tmp_path, scheme) as browser:
        be_wide(browser, 1440)
        sign_in(browser, console)
        for name, path in PAGES.items():
            browser.get(console.origin + path)
            for width in WIDTHS:
                be_wide(browser, width)
                widest = browser.execute_script("return document.documentElement.scrollWidth")
                assert widest <= width, f"{name} is {widest} px wide at {width}"
                photograph(browser, folder / f"{name}-{width}-{scheme}.png")
            assert browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == (
                scheme == "dark")
            assert not faint(browser), name
            assert not (found := faults(browser, axe)), (name, found)
            be_wide(browser, 1440)
        assert not complaints(browser)


def faint(browser: Any) -> list[str]:
    """Texts whose contrast to what is behind them is below 4.5 : 1 (WCAG 2.2, AA)."""
    found: list[str] = browser.execute_script("""
        const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
        const light = (colour) => colour.slice(0, 3).map((one) => one / 255).map(
            (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
            .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
        const behind = (one) => {
            for (; one; one = one.parentElement) {
                const colour = rgb(getComputedStyle(one).backgroundColor);
                if (colour.length === 3 || colour[3] > 0.99) return colour;
            }
            return [255, 255, 255];
        };
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
        while (walker.nextNode()) {
            const text = walker.currentNode.textContent.trim(), one = walker.currentNode.parentElement;
            if (!text || !one.checkVisibility() || one.closest(".unseen, script, option")) continue;
            const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
            const contrast = (a + 0.05) / (b + 0.05);
            if (contrast < 4.5) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(1)}`);
        }
        return found;""")
    return found
