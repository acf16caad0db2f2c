"""The pages of `humansd inspect --serve` in a real browser: Debian's Chromium, headless.

    apt-get install chromium chromium-driver

Skipped where they are not installed, unless HUMANSD_REQUIRE_BROWSER is set.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from pipelines import dataset
from pipelines.inspect.catalog import PAGE_ROWS
from tests.pipelines.inspect.served import served, write_indexed
from tests.pipelines.inspect.test_report import HOSTILE, write_hostile

WIDTH, HEIGHT = 1280, 1000


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium, whose console is read at the end of each test."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        reason = f"no {' and no '.join(missing)}: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("HUMANSD_REQUIRE_BROWSER") else pytest.skip)(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs["chromium"])
    # No sandbox: containers forbid it to root. It opens pages of this test only.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={WIDTH},{HEIGHT}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs["chromedriver"]))
    yield driver
    driver.quit()


class Tab:
    """What somebody does with a page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def wait(self, until: Callable[[], object]) -> None:
        WebDriverWait(self.driver, 30, 0.05).until(lambda _: until())

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.check_pictures()

    def leave(self, act: Callable[[], object]) -> None:
        """Do what loads another page, and wait until it is there."""
        self.driver.execute_script("document.before = true")
        act()
        self.wait(lambda: self.driver.execute_script("return !document.before && document.readyState == 'complete'"))

    def check_pictures(self) -> None:
        """Every picture that has been in view is there."""
        script = "return [...document.images].every(one => one.complete && one.naturalWidth > 0)"
        self.driver.execute_script("document.querySelectorAll('img').forEach(one => one.loading = 'eager')")
        self.wait(lambda: self.driver.execute_script(script))

    def keys(self) -> list[str | None]:
        return [picture.get_attribute("alt") for picture in self.all("article img")]

    def screenshot(self, file: Path) -> Image.Image:
        file.write_bytes(self.driver.get_screenshot_as_png())
        return Image.open(io.BytesIO(file.read_bytes())).convert("RGB")

    def complaints(self) -> list[str]:
        """What the browser refused or failed to do since it was last asked."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


def test_somebody_loads_filters_opens_and_flags(browser: webdriver.Chrome, tmp_path: Path) -> None:
    out = tmp_path / "out"
    keys = write_indexed(out, 8)
    tab = Tab(browser)
    with served(str(out)) as client:
        tab.open(f"{client.origin}/")
        assert tab.keys() == keys[:PAGE_ROWS]
        pixels = np.asarray(tab.screenshot(tmp_path / "list.png"))
        assert pixels.shape[1] == WIDTH
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # pictures are in view
        assert browser.execute_script("return document.documentElement.scrollWidth") <= WIDTH

        tab.leave(lambda: Select(tab.one("[name=scene]")).select_by_value("mural"))  # filters by itself
        murals = tab.keys()
        assert 0 < len(murals) < 8
        tab.one("[name=text]").send_keys("no such caption")
        tab.leave(lambda: tab.one(".filters button").click())
        assert tab.keys() == []
        tab.one("[name=text]").clear()
        tab.leave(lambda: tab.one(".filters button").click())
        assert tab.keys() == murals

        tab.leave(lambda: tab.one("article a").click())
        tab.check_pictures()
        assert tab.one("#snippet").text.startswith("import io")
        limbs = tab.one(".stage svg")
        picture = tab.one(".stage img")
        assert limbs.is_displayed()
        assert limbs.rect == picture.rect
        with_limbs = np.asarray(tab.screenshot(tmp_path / "sample.png")).astype(int)
        tab.one("#skeleton").click()
        assert not limbs.is_displayed()
        assert np.abs(np.asarray(tab.screenshot(tmp_path / "plain.png")) - with_limbs).max() > 60

        tab.leave(lambda: tab.one(".flag button").click())
        assert tab.one(".flag button").text == "unflag"
        assert murals[0] in (out / "flagged.txt").read_text(encoding="utf-8").splitlines()
        tab.leave(lambda: tab.one("a[href^='/accepted?scene=mural']").click())
        assert tab.keys() == murals
        assert tab.one("article.flagged img").get_attribute("alt") == murals[0]
        tab.leave(lambda: tab.one("article.flagged .flag button").click())
        assert not tab.all("article.flagged")
        assert browser.current_url.endswith("/accepted?scene=mural#row-1")
        tab.leave(lambda: tab.one("header a[href='/rejected']").click())
        assert tab.one("article .bad").text == "people count: too few"
        assert tab.complaints() == []


def test_the_snippet_is_copied(browser: webdriver.Chrome, tmp_path: Path) -> None:
    write_indexed(tmp_path / "out", 1)
    tab = Tab(browser)
    with served(str(tmp_path / "out")) as client:
        allowed = {"origin": client.origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        browser.execute_cdp_cmd("Browser.grantPermissions", allowed)
        tab.open(client.origin + client.get("/accepted").linked("/sample?")[0])
        tab.one("h2 .copy").click()
        tab.wait(lambda: tab.one("h2 .copy").text == "copied")
        copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
        assert copied == tab.one("#snippet").get_property("textContent")


def test_a_hostile_caption_runs_nothing(browser: webdriver.Chrome, tmp_path: Path) -> None:
    write_hostile(tmp_path / "out")
    dataset.write_index(str(tmp_path / "out"))
    tab = Tab(browser)
    with served(str(tmp_path / "out")) as client:
        for path in ("/accepted", "/rejected"):
            tab.open(client.origin + path)
            assert HOSTILE in tab.one("article .caption").text
            tab.leave(lambda: tab.one("article a").click())
            assert HOSTILE in tab.one(".text").text
        browser.execute_script("""
            document.body.append(document.createRange().createContextualFragment(
                "<img src=x onerror='document.hacked = 1'><script>document.hacked = 2</script>"))""")
        refused: list[str] = []

        def refused_both() -> bool:
            refused.extend(line for line in tab.complaints() if "Content Security Policy" in line)
            return len(refused) >= 2

        tab.wait(refused_both)
        assert browser.execute_script("return document.hacked") is None
