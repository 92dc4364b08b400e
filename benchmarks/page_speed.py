# SPDX-License-Identifier: Apache-2.0
"""How soon the search page shows something, in a real browser.

    python -m benchmarks.page_speed --index=indexes/demo

Starts `search serve` on a free port of this machine and opens its page in Chromium, without a
window. `open` is the time from asking for the page until its first pictures' cards stand there;
`results` that from the last key of a caption until the cards are those of its answer, which holds
the page's pause of 120 ms in case that another key follows; `shown` until the first picture among
them is there too; `service` the part of it from the request to the answer. In milliseconds; every
round is a caption that was not asked before, in a page of a new context (nothing is cached).
"""

import argparse
import importlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.serve_load import serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FIRST = "() => document.querySelectorAll('.card').length > 0"
# Noted by the page itself, since asking a browser from outside takes some milliseconds.
WATCH = """() => {
  window.noted = {};
  const grid = document.getElementById("grid");
  new MutationObserver(() => {
    window.noted.results ??= performance.now();
    const image = grid.querySelector("img");
    const seen = () => { window.noted.shown ??= performance.now(); };
    if (image.complete) seen();
    else image.addEventListener("load", seen, { once: true });
  }).observe(grid, { childList: true });
  document.addEventListener("input", () => { window.noted = { key: performance.now() }; }, true);
}"""
SERVICE = """() => {
  const all = performance.getEntriesByType("resource");
  const asked = all.filter((entry) => entry.name.includes("/api/search?q="));
  return asked.at(-1).responseEnd - asked.at(-1).startTime;
}"""


def chromium() -> str | None:
    """The path of the system's own; None where it has none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def visit(browser: Any, address: str, words: str) -> dict[str, float]:
    """One visitor who types a caption."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=address)
    try:
        page = context.new_page()
        begin = time.perf_counter()
        page.goto("/", wait_until="commit")
        page.wait_for_function(FIRST)
        opened = 1000 * (time.perf_counter() - begin)
        page.wait_for_load_state("networkidle")
        page.evaluate(WATCH)
        page.keyboard.type(words, delay=20)
        page.wait_for_function("() => window.noted.shown")
        noted = page.evaluate("() => window.noted")
        return {
            "open": opened,
            "results": noted["results"] - noted["key"],
            "shown": noted["shown"] - noted["key"],
            "service": page.evaluate(SERVICE),
        }
    finally:
        context.close()


def measure(index: str, model: str, rounds: int) -> dict[str, Any]:
    """Percentiles of each time over the rounds, but for one before them."""
    if rounds < 1:
        raise SystemExit("--rounds starts at 1")
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError:
        raise SystemExit("no playwright to drive a browser: pip install playwright") from None
    path = chromium()
    if path is None:
        raise SystemExit(f"no browser: install one of {', '.join(BROWSERS)}")
    with serving(index, model) as (_, port), playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        address = f"http://127.0.0.1:{port}"
        captions = _captions(browser, address, rounds + 1)
        visits = [visit(browser, address, words) for words in captions][1:]
        version = browser.version
        browser.close()
    times = {
        name: {
            f"p{at}": round(float(np.percentile([one[name] for one in visits], at)), 1)
            for at in (50, 95)
        }
        for name in ("open", "results", "shown", "service")
    }
    return {"chromium": version, "rounds": len(visits), "milliseconds": times}


def _captions(browser: Any, address: str, count: int) -> list[str]:
    """Of pictures of the index, without what an expression would be read from."""
    page = browser.new_page(base_url=address)
    page.goto("/")
    found: list[str] = []
    for number in range(1, 41):
        answer = page.request.get(f"/api/search?page={number}").json()
        said = [hit["captions"][0] for hit in answer["hits"] if hit["captions"]]
        found += [words for words in said if words.replace(" ", "").isalnum()]
        if len(found) >= count or not answer["more"]:
            break
    page.close()
    if len(found) < count:
        raise SystemExit(f"the index has {len(found)} plain captions: take --rounds below that")
    return found[:count]


def main(argv: Sequence[str]) -> int:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--rounds", type=int, default=20)
    flags = parser.parse_args(argv)
    print(json.dumps(measure(flags.index, flags.model, flags.rounds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
