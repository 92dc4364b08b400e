# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: Chromium as the system has it."""

import pathlib
from collections.abc import Generator
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import PHONE, WIDE, assert_fair
from running import running
from small_service import make_index, png, write_pictures

from cots_jax.serve.access import Access

pytestmark = pytest.mark.slow
GIVE = """([way, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
  const about = { bubbles: true, cancelable: true };
  const drag = (kind) => new DragEvent(kind, { ...about, dataTransfer: data });
  if (way === "paste") {
    document.dispatchEvent(new ClipboardEvent("paste", { ...about, clipboardData: data }));
    return;
  }
  document.body.dispatchEvent(drag("dragenter"));
  if (document.getElementById("drop").hidden) throw new Error("nothing says where to drop");
  document.body.dispatchEvent(drag("dragover"));
  document.body.dispatchEvent(drag("drop"));
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder = tmp_path_factory.mktemp("page")
    write_pictures(folder / "pictures")
    make_index(folder / "pictures", folder / "index")
    with running(folder / "index") as url:
        yield url


def captions(page) -> list[str]:
    return page.locator(".caption").all_text_contents()


def titles(page) -> list[str]:
    return [page_title.get_attribute("title") for page_title in page.locator(".open").all()]


def wait_for_first(page, title: str) -> None:
    page.wait_for_function(
        "title => document.querySelector('.open')?.title.startsWith(title)", arg=title
    )


def asked(page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def focused(page) -> str:
    return page.evaluate("document.activeElement.title || document.activeElement.id")


class TestAsking:
    def test_results_come_while_one_types(self, page) -> None:
        assert focused(page) == "q"  # ready to be typed into
        page.keyboard.type("re")
        page.keyboard.type("d")
        wait_for_first(page, "red/0.png")
        assert asked(page) == {"q": ["red"]}
        assert "of 40 pictures" in page.locator("#status").text_content()
        assert page.locator(".number").first.text_content() == "1.000"
        assert page.locator(".first-after").count() == 1
        assert page.locator(".card.out").count() >= 1

    def test_an_expression_says_how_it_was_read(self, page) -> None:
        page.fill("#q", "2*red + green")
        page.wait_for_selector("#understood:not(:empty)")
        assert page.text_content("#understood") == "Looked for 2 × “red” + “green”"

    def test_the_address_holds_everything(self, page) -> None:
        page.fill("#q", "red")
        wait_for_first(page, "red/")
        page.locator(".card").nth(3).locator(".like").click(force=True)
        page.wait_for_selector(".chip")
        page.locator(".card").last.locator(".unlike").click(force=True)
        page.wait_for_function("() => document.querySelectorAll('.chip').length === 2")
        page.select_option("#under", "red/")
        page.uncheck("#fold")
        page.wait_for_function("() => document.querySelectorAll('.card').length === 8")
        assert set(asked(page)) == {"q", "like", "unlike", "under", "fold"}
        before = titles(page)
        page.reload()
        page.wait_for_function("() => document.querySelectorAll('.card').length === 8")
        assert titles(page) == before
        assert page.input_value("#q") == "red"
        assert page.locator(".chip").count() == 2
        assert page.input_value("#under") == "red/"
        assert not page.is_checked("#fold")

    def test_back_undoes_a_step(self, page) -> None:
        page.fill("#q", "blue")
        wait_for_first(page, "blue/")
        page.locator(".card").nth(1).locator(".like").click(force=True)
        page.wait_for_selector(".chip")
        page.go_back()
        page.wait_for_function("() => document.querySelectorAll('.chip').length === 0")
        assert asked(page) == {"q": ["blue"]}

    def test_pages(self, page) -> None:
        first = titles(page)
        page.click("#next")
        page.wait_for_function("() => document.querySelectorAll('.card').length === 10")
        assert not set(first) & set(titles(page))
        assert asked(page) == {"page": ["2"]}
        assert page.is_disabled("#next")

    def test_no_picture_passes(self, page) -> None:
        page.goto("/?under=zebra")
        page.wait_for_selector("#message:not([hidden])")
        assert "No picture passes" in page.text_content("#message")

    def test_what_the_service_refuses_is_said(self, page) -> None:
        page.goto("/?q=red+-+red")
        page.wait_for_selector("#message:not([hidden])")
        assert "take each other away" in page.text_content("#message")

    def test_captions_are_words_and_no_markup(self, page) -> None:
        page.fill("#q", "<img src=x onerror=alert(1)> + <b>a</b>")
        page.wait_for_selector("#understood:not(:empty)")
        assert page.locator("#understood img, #understood b").count() == 0


class TestPictures:
    def test_chosen(self, page, tmp_path: pathlib.Path) -> None:
        (tmp_path / "a.png").write_bytes(png((0, 255, 0)))
        page.set_input_files("#file", tmp_path / "a.png")
        wait_for_first(page, "green/0.png")
        assert set(asked(page)) == {"picture"}
        page.fill("#q", "red")
        wait_for_first(page, "yellow/")
        page.reload()
        wait_for_first(page, "yellow/")
        assert page.locator(".chip img").get_attribute("src").startswith("data:image/")
        page.click(".chip button")
        wait_for_first(page, "red/")
        assert focused(page) == "q"

    @pytest.mark.parametrize("way", ["paste", "drop"])
    def test_pasted_and_dropped(self, page, way: str) -> None:
        page.evaluate(
            GIVE,
            [way, list(png((0, 0, 255)))],
        )
        wait_for_first(page, "blue/0.png")
        assert page.is_hidden("#drop")

    def test_one_that_is_none(self, browser, address: str, tmp_path: pathlib.Path) -> None:
        opened = browser.new_page(base_url=address)
        opened.goto("/")
        (tmp_path / "a.png").write_bytes(b"no picture")
        opened.set_input_files("#file", tmp_path / "a.png")
        opened.wait_for_function(
            "() => document.getElementById('message').textContent.includes('no picture')"
        )
        opened.close()


class TestKeys:
    def test_the_whole_way(self, page) -> None:
        keys = page.keyboard
        keys.type("red")
        wait_for_first(page, "red/")
        keys.press("ArrowDown")
        assert focused(page) == titles(page)[0]
        keys.press("ArrowRight")
        keys.press("ArrowRight")
        assert focused(page) == titles(page)[2]
        keys.press("ArrowDown")
        below = titles(page).index(focused(page))
        assert below > 3
        keys.press("ArrowUp")
        assert focused(page) == titles(page)[2]
        keys.press("Home")
        keys.press("ArrowUp")
        assert focused(page) == "q"
        keys.press("Enter")
        page.wait_for_function("() => document.activeElement.className === 'open'")
        keys.press("Enter")
        page.wait_for_selector("#closer[open]")
        name = page.text_content("#closer-name")
        keys.press("ArrowRight")
        assert page.text_content("#closer-name") != name
        keys.press("Escape")
        page.wait_for_selector("#closer", state="hidden")
        keys.press("+")
        page.wait_for_selector(".chip")
        assert "like" in asked(page)
        page.wait_for_function("() => document.activeElement.className === 'open'")
        keys.press("Escape")
        assert focused(page) == "q"
        keys.press("Escape")
        page.wait_for_selector("#next:enabled")
        assert asked(page) == {}
        keys.press("ArrowDown")
        keys.press("]")
        page.wait_for_function("() => location.search === '?page=2'")
        keys.press("?")
        page.wait_for_selector("#help[open]")
        keys.press("Escape")
        keys.press("/")
        assert focused(page) == "q"

    def test_the_grid_is_one_stop_with_its_buttons(self, page) -> None:
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "unlike"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('.card')") is None


class TestEveryone:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
    def test_no_serious_finding(self, browser, address: str, scheme: str, size: dict) -> None:
        context = browser.new_context(
            viewport=size, base_url=address, color_scheme=scheme, bypass_csp=True
        )
        opened = context.new_page()
        opened.goto("/")
        like = opened.evaluate(
            "fetch('/api/search?q=red').then(r => r.json()).then(a => a.hits[0].id)"
        )
        for path, dialog in (
            ("/", ""),
            (f"/?q=red+%2B+green&like={like}", ""),
            ("/?q=red", "closer"),
            ("/", "help"),
        ):
            opened.goto(path)
            opened.wait_for_selector(".card")
            if dialog == "closer":
                opened.locator(".open").first.click()
            elif dialog:
                opened.keyboard.press("ArrowDown")
                opened.keyboard.press("?")
            assert_fair(opened)
        context.close()

    def test_a_phone_scrolls_one_way(self, browser, address: str) -> None:
        context = browser.new_context(
            viewport=PHONE, base_url=address, has_touch=True, is_mobile=True
        )
        opened = context.new_page()
        opened.goto("/?q=" + "red+" * 40)
        opened.wait_for_selector(".card")
        width = opened.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"]
        opened.tap("#filters summary")
        assert opened.is_visible("#under")
        opened.locator(".open").first.tap()
        opened.wait_for_selector("#closer[open]")
        opened.tap("#closer-like")
        opened.wait_for_selector(".chip")
        context.close()


def test_a_token_lets_the_page_in(browser, address: str, tmp_path: pathlib.Path) -> None:
    write_pictures(tmp_path / "pictures", shades=1)
    make_index(tmp_path / "pictures", tmp_path / "index")
    token = "0123456789abcdef"
    with running(tmp_path / "index", Access(token, (), 1e6)) as url:
        opened = browser.new_page(base_url=url)
        assert opened.goto("/").status == 401
        opened.goto(f"/?q=red&token={token}")
        opened.wait_for_selector(".card")
        assert "token" not in opened.url
        assert opened.evaluate("document.querySelector('.picture img').naturalWidth") > 0
        opened.close()
