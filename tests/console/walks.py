"""What the walks in a real Chromium share: signing in, pressing, what the browser complains about."""

from __future__ import annotations

import contextlib
from typing import Any

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


def write(browser: Any, css: str, text: str) -> None:
    """Types into a field that is empty."""
    browser.find_element("css selector", css).send_keys(text)


def seen(browser: Any) -> str:
    """What a reader sees of the page's own part."""
    return str(browser.find_element("css selector", "main").text)


def complaints(browser: Any) -> list[str]:
    """What the browser says of our policy, our script or missing files."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
