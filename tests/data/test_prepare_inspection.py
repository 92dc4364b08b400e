# SPDX-License-Identifier: Apache-2.0
"""An inspection tells what is in a folder, and its page shows it without anything from outside."""

import base64
import html.parser
import io
import json
import pathlib
import re
import sys

import numpy as np
import pytest
from PIL import Image
from prepare_cases import jpeg, write_tar

from cots_jax import prepare
from cots_jax.data.prepare import inspection
from cots_jax.data.prepare.inspection import evenly, inspect
from cots_jax.data.prepare.webdataset import WebdatasetOptions, prepare_webdataset
from cots_jax.errors import UserError

CAPTIONS = ["a dog", '<script>alert(1)</script> & "more"', "كلب أسود يركض", "one two three four"]


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    (tmp_path / "in").mkdir()
    members = []
    for number, caption in enumerate(CAPTIONS):
        text = json.dumps({"captions": [caption, f"number {number}"][: 1 + number % 2]})
        members += [
            (f"{number}.jpg", jpeg(number, (90 + number, 60))),
            (f"{number}.json", text.encode()),
        ]
    bad = [("<b>.txt", b"x"), ("c.jpg", b"no"), ("c.txt", b"broken")]
    write_tar(tmp_path / "in" / "train.tar", [*members, *bad])
    write_tar(tmp_path / "in" / "val.tar", [("0.jpg", jpeg(50, (300, 10))), ("0.txt", b"wide")])
    prepare_webdataset(tmp_path / "out", WebdatasetOptions(source=tmp_path / "in"))
    return tmp_path / "out"


def test_counts_sizes_and_lengths(folder):
    found = inspect(None, folder)
    train = found.facts["splits"]["train"]
    assert (train["records"], train["pairs"], train["shards"], train["sampled"]) == (4, 6, 1, 4)
    assert train["captions_per_picture"] == {
        "least": 1, "median": 2, "p95": 2, "most": 2, "mean": 1.5,
    }  # fmt: skip
    assert (train["width"]["least"], train["width"]["most"]) == (90, 93)
    assert train["caption_words"]["most"] == 4
    assert found.facts["splits"]["val"]["height"]["most"] == 9
    assert found.facts["drops"] == {"no_picture": 1, "picture_unreadable": 1}
    said = found.summary()
    assert "train: 4 pictures, 6 pairs, 1 shards" in said
    assert "width: 90 to 93" in said
    assert "1  no_picture" in said
    assert str(folder / "contact_sheet.html") in said


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone_and_shows_texts_as_they_are(folder):
    inspect(None, folder)
    text = (folder / "contact_sheet.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert "script" not in page.tags
    assert not re.search(r"https?:|url\(|@import", text)
    for caption in (*CAPTIONS, "wide", "number 3"):
        assert caption in page.text
    assert "train/<b> at train.tar:<b>" in page.text
    assert len(page.images) == 5
    pictures = [Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))
                for src in page.images]  # fmt: skip
    assert all(max(picture.size) <= 160 for picture in pictures)
    first = np.asarray(Image.open(io.BytesIO(jpeg(0, (90, 60)))).convert("RGB"), int)
    assert np.abs(np.asarray(pictures[0], int) - first).mean() < 6


def test_large_splits_are_sampled_evenly(folder, monkeypatch):
    monkeypatch.setattr(inspection, "SAMPLED", 2)
    monkeypatch.setattr(inspection, "SHOWN", 3)
    found = inspect(folder.parent / "elsewhere", folder)
    assert found.facts["splits"]["train"]["sampled"] == 2
    assert "of 2 pictures, evenly spaced" in found.summary()
    assert (folder.parent / "elsewhere" / "contact_sheet.html").read_text().count("<figure>") == 4
    assert not (folder / "contact_sheet.html").exists()
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(3, 9) == [0, 1, 2]


def test_the_door(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare", "inspect", str(folder), "--json"])
    assert prepare.main() == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["splits"]["train"]["records"] == 4
    assert "look at" in said.err
    monkeypatch.setattr(sys, "argv", ["prepare", "inspect", str(folder.parent)])
    assert prepare.main() == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_folder_says_so(folder):
    (folder / "rejects.jsonl").write_text("no\n")
    with pytest.raises(UserError, match=r"rejects\.jsonl cannot be read"):
        inspect(None, folder)
