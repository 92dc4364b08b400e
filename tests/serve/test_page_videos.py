# SPDX-License-Identifier: Apache-2.0
"""The page over an index of videos, in a real browser: a hit opens at its piece."""

from collections.abc import Generator

import pytest
from browsing import WIDE, assert_fair
from running import running
from small_service import make_index, write_videos

pytest.importorskip("av", reason="needs the extra cots_jax[video]")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder / "clips")
    make_index(folder / "clips", folder / "index", seconds=2.0)
    with running(folder / "index") as url:
        yield url


def test_opens_at_its_second(page) -> None:
    page.goto("/?under=red.webm&fold=off&q=green")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 2")
    assert page.locator(".time").all_text_contents() == ["0:02 – 0:04", "0:00 – 0:02"]
    page.wait_for_function("() => document.querySelector('.card img').naturalWidth === 64")
    page.click(".open")
    page.wait_for_function("() => document.getElementById('closer-video').readyState >= 2")
    assert page.evaluate("document.getElementById('closer-video').currentTime") == 2
    assert page.is_hidden("#closer-picture")
    assert page.text_content("#closer-time") == "0:02 – 0:04"
    page.evaluate("document.getElementById('closer-video').play()")
    page.wait_for_function("() => document.getElementById('closer-video').currentTime > 2")
    page.click("#closer-next")
    page.wait_for_function("() => document.getElementById('closer-video').currentTime === 0")
    page.keyboard.press("Escape")
    page.wait_for_selector("#closer", state="hidden")
    assert page.get_attribute("#closer-video", "src") is None


def test_one_that_cannot_be_played(page) -> None:
    page.route("**/api/videos/*", lambda route: route.fulfill(status=200, body="no film"))
    page.click(".open")
    page.wait_for_selector("#closer-unplayable:not([hidden])")
    assert page.is_visible("#closer-picture")
    assert page.is_hidden("#closer-video")


def test_no_serious_finding(browser, address: str) -> None:
    context = browser.new_context(viewport=WIDE, base_url=address, bypass_csp=True)
    opened = context.new_page()
    opened.goto("/")
    opened.click(".open")
    opened.wait_for_selector("#closer-video:not([hidden])")
    assert_fair(opened)
    context.close()
