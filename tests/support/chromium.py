"""A real Chromium without a window, driven by selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import need

WIDTHS = (390, 1440)
HEIGHT = 900


@contextmanager
def chromium(folder: Path, scheme: str = "light") -> Iterator[Any]:
    """A driver of selenium; ``scheme`` is what pages find in prefers-color-scheme. Skips what has no Chromium."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    need(browser and driver, "there is no Chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(browser)
    for flag in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}",
                 "--lang=en-US", "--no-sandbox"):  # it loads our own pages only, and root or a container has no sandbox
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(str(driver)))
    try:
        running.set_page_load_timeout(90)
        running.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        yield running
    finally:
        running.quit()


def be_wide(driver: Any, width: int, height: int = HEIGHT) -> None:
    """Gives pages a viewport of this many CSS pixels."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})


def photograph(driver: Any, path: Path) -> None:
    """The whole page as it is, however long."""
    import base64

    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    data = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": {
        "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}})["data"]
    path.write_bytes(base64.b64decode(data))
