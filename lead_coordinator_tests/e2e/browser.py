"""A real browser on the platform's UI: Debian's Chromium, driven by its own chromedriver."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PAGE_SECONDS = 60
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=2000,1200",
)


@contextmanager
def open_browser(folder: Path) -> Iterator[Chrome]:
    """A browser with an empty profile under `folder`; skips the test where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={folder / 'browser'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=Service(driver))
    try:
        browser.set_page_load_timeout(PAGE_SECONDS)
        yield browser
    finally:
        browser.quit()


class Ui:
    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        self.url = url
        self._severe: list[dict[str, Any]] = []

    def visit(self, path: str, *expected: str) -> None:
        """Opens a page and waits until a person can read every one of these texts on it."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser.get(f"{self.url}{path}")
        try:
            WebDriverWait(self.browser, PAGE_SECONDS).until(
                lambda browser: all(text in self.text() for text in expected)
            )
        except TimeoutException:
            text = self.text()
            missing = [wanted for wanted in expected if wanted not in text]
            pytest.fail(f"{path} must show {missing}; it shows:\n{text[:3000]}")
        log: list[dict[str, Any]] = self.browser.get_log("browser")
        self._severe += [{"page": path, **entry} for entry in log if entry["level"] == "SEVERE"]

    def text(self) -> str:
        return str(self.browser.execute_script("return document.body ? document.body.innerText : ''"))

    def severe(self) -> list[dict[str, Any]]:
        """What went wrong on the visited pages, as the browser's console has it."""
        return self._severe
