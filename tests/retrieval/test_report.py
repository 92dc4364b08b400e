# SPDX-License-Identifier: Apache-2.0
"""The page: well-formed, alone, escaped, complete."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cots_jax.retrieval.curves import Curve, Series
from cots_jax.retrieval.intervals import bootstrap
from cots_jax.retrieval.metrics import Ranks, summarise
from cots_jax.retrieval.pictures import Candidate, Example, ExampleSet
from cots_jax.retrieval.protocols import describe_set, make_result
from cots_jax.retrieval.report import LevelCheck, write_report

VOID = {"meta", "img", "link", "br", "hr", "input"}
HOSTILE = "<script>alert('x')</script>\" onload=\"y & </style>"


class Page(HTMLParser):
    """Checks that tags nest and collects what they carry."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)


def picture():
    file = io.BytesIO()
    Image.new("RGB", (6, 6), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def page(tmp_path):
    group = np.arange(3)
    protocol = describe_set(
        group, group, dataset=HOSTILE, split="val", towers="momentum", resolution=32,
        lineage=[HOSTILE], fine_tuned_on=[HOSTILE],
    )  # fmt: skip
    ranks = Ranks(np.array([1, 1, 30]), np.array([1, 2, 3]))
    ends = bootstrap(ranks, group, group)
    png = picture()
    from_text = Example(
        HOSTILE,
        [Candidate(HOSTILE, 0.5, False, png), Candidate("b", 0.4, False, png)],
        1234,
        of=5000,
        missed=Candidate("right", -0.25, True, png),
    )
    from_image = Example(png, [Candidate(HOSTILE, 0.5, True), Candidate("b", 0.4, False)], rank=1)
    path = tmp_path / "new" / "report.html"
    write_report(
        path,
        title=HOSTILE,
        summary_facts={HOSTILE: HOSTILE, "command": "python -m x --a='<b>'"},
        results=[make_result(HOSTILE, protocol, summarise(ranks), ends)],
        curves=[Curve(HOSTILE, [Series(HOSTILE, [1, 2], [3.0, 2.0])], 2.5, HOSTILE, HOSTILE)],
        examples=[ExampleSet(HOSTILE, HOSTILE, [from_text, from_image])],
        levels=[
            LevelCheck(HOSTILE, 4.2, 6.0, HOSTILE, alive=True),
            LevelCheck("b", HOSTILE, HOSTILE, "m", alive=False),
        ],
    )
    return path.read_text(encoding="utf-8")


def test_the_page_nests_and_nothing_in_it_is_executed(page):
    parsed = Page(page)
    assert "script" not in parsed.tags and page.count("</style>") == 1
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert sum(HOSTILE in text for text in parsed.texts) >= 12


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"https?://|@import|url\(", page)
    parsed = Page(page)
    for name, value in parsed.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:image/", "#")), value
    anchors = {value for name, value in parsed.attributes if name == "id"}
    links = [value[1:] for name, value in parsed.attributes if name == "href"]
    assert len(links) == 4 and set(links) == anchors


def test_pictures_in_the_page_decode(page):
    sources = [value for name, value in Page(page).attributes if name == "src"]
    assert len(sources) == 4
    for source in sources:
        data = base64.b64decode(source.split(",", 1)[1], validate=True)
        assert Image.open(io.BytesIO(data)).size == (6, 6)


def test_numbers_and_protocol_stand_in_the_page(page):
    text = " ".join(" ".join(Page(page).texts).split())
    for said in ("66.7", "33.3", "rsum 433.3", "3 images × 3 texts", "pessimistic", "32 px"):
        assert said in text, said
    assert "66.7 0.0 – 100.0" in text  # the interval
    assert "rank 1,234 of 5,000" in text and "−0.250" in text
    assert "✓ alive" in text and "✗ not alive" in text


def test_light_dark_and_phone_are_provided_for(page):
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_empty_parts_do_not_appear(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, title="run", summary_facts={}, examples=[ExampleSet("t", "n", [])])
    assert "h2" not in Page(path.read_text(encoding="utf-8")).tags
