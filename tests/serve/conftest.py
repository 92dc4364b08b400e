# SPDX-License-Identifier: Apache-2.0
"""A browser and a page in it, for tests that have an `address`."""

import pytest
from browsing import WIDE

from benchmarks.page_speed import chromium


@pytest.fixture(scope="module")
def browser():
    """Chromium as the system has it."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright to drive a browser"
    )
    pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address: str):
    """At the start of the page; whatever the console says of errors fails the test."""
    context = browser.new_context(viewport=WIDE, base_url=address)
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda line: line.type in ("error", "warning") and said.append(line.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    asked_for: list[str] = []
    opened.on("request", lambda request: asked_for.append(request.url))
    opened.goto("/")
    opened.wait_for_selector(".card")
    yield opened
    context.close()
    # a refusal stands in the console of every browser, whatever the page makes of it
    assert [line for line in said if "status of 422" not in line] == []
    assert all(url.startswith((address, "data:", "blob:")) for url in asked_for)
