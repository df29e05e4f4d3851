"""What the walks in a real Chromium share: signing in, pressing, what the browser complains about."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support import need
from tests.support.console import Console, wait_until


def sign_in(browser: Any, console: Console, name: str = "olga", *roles: str) -> None:
    """Opens a link and presses its button."""
    browser.get(console.link(name, *(roles or ("operator",))))
    browser.find_element("css selector", "main button").click()
    wait_until(lambda: browser.find_elements("css selector", ".tiles"), 60, "overview")


def press(browser: Any, css: str) -> None:
    """Clicks what is there, also if the page replaces it between the look and the click: a person would look again."""
    from selenium.common.exceptions import StaleElementReferenceException

    for _ in range(5):
        with contextlib.suppress(StaleElementReferenceException):
            browser.find_element("css selector", css).click()
            return
    raise AssertionError(f"{css} never stays")


def follow(browser: Any, css: str) -> None:
    """Clicks what leads to another page, and waits until that page is whole: the click itself may return while the
    browser still has the old page, or half of the new one."""
    from selenium.common.exceptions import WebDriverException

    def is_there() -> bool:
        with contextlib.suppress(WebDriverException):  # the page goes away while it is asked
            return bool(browser.execute_script("return !window.isLeft && document.readyState === 'complete'"))
        return False

    browser.execute_script("window.isLeft = true")
    press(browser, css)
    wait_until(is_there, 60, f"page that {css} leads to")


PRESSES_MAX = 120


def type_keys(browser: Any, *keys: str) -> None:
    """Presses keys: whatever has the focus gets them, and nothing is clicked."""
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def tab_to(browser: Any, css: str, *keys: str) -> None:
    """Presses Tab until something that matches ``css`` has the focus, and then ``keys``. Its outline has to show."""
    from selenium.webdriver.common.keys import Keys

    for _ in range(PRESSES_MAX):
        found, outline = browser.execute_script(
            "const one = document.activeElement;"  # none while the next page loads
            "return one ? [one.matches(arguments[0]), getComputedStyle(one).outlineStyle] : [false, '']", css)
        if found:
            assert outline != "none", f"{css} has the focus and does not show it"
            type_keys(browser, *keys)
            return
        type_keys(browser, Keys.TAB)
    raise AssertionError(f"{css} is not reached within {PRESSES_MAX} presses of Tab")


def comes(browser: Any, text: str) -> None:
    """Waits until the page shows ``text``: a key press does not wait for the page that it leads to."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    def is_there() -> bool:
        with contextlib.suppress(NoSuchElementException, StaleElementReferenceException):
            return text in seen(browser)
        return False

    wait_until(is_there, 30, text)


def write(browser: Any, css: str, text: str) -> None:
    """Types into a field that is empty."""
    browser.find_element("css selector", css).send_keys(text)


def seen(browser: Any) -> str:
    """What a reader sees of the page's own part."""
    return str(browser.find_element("css selector", "main").text)


AXE = "axe-core@4.10.3"
"""Finds what people with a screen reader, a keyboard or weak eyes cannot use (Deque, MPL-2.0; only tests run it)."""


def axe_source(folder: Path) -> str:
    """The library, from a package that the test installs. Skips where npm cannot."""
    npm = shutil.which("npm")
    need(npm, "npm is not installed")
    assert npm is not None
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", AXE], cwd=folder,
                          capture_output=True, text=True, timeout=300)
    need(done.returncode == 0, f"npm cannot install {AXE} here: {done.stderr[-300:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def faults(browser: Any, source: str) -> list[str]:
    """What axe calls serious or critical on the page as it is."""
    browser.execute_script(source)
    found: list[dict[str, Any]] = browser.execute_async_script("""
        const done = arguments[0];
        axe.run(document, { resultTypes: ["violations"] }).then((all) => done(all.violations.map((one) => ({
            impact: one.impact, id: one.id, help: one.help,
            nodes: one.nodes.slice(0, 3).map((node) => node.html)}))));""")
    return [f"{one['id']}: {one['help']}: {one['nodes']}" for one in found if one["impact"] in ("serious", "critical")]


def complaints(browser: Any) -> list[str]:
    """What the browser says of our policy, our script or missing files."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
