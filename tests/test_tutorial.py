# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/tutorial.md, typed as they stand in the page, from an empty folder on."""

import json
import pathlib
import shlex
import sys

import pytest
from doors import PROJECT, Said, run_apart

from cots_jax.arguments import parse_arguments

PAGE = PROJECT / "docs" / "tutorial.md"


def blocks() -> list[str]:
    """The indented blocks of the page, in their order."""
    found, open_block = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("    ") or (open_block and not line):
            found += [] if open_block else [""]
            found[-1] += line[4:] + "\n"
            open_block = True
        else:
            open_block = False
    return found


def commands() -> list[list[str]]:
    """All of `python …`, each as its words."""
    lines = "\n".join(blocks()).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("python ")]


def doors() -> list[str]:
    return [words[2] if words[1] == "-m" else words[1] for words in commands()]


def type_in(root: pathlib.Path, words: list[str]) -> Said:
    said = run_apart(root, [sys.executable, *words[1:]], timeout=900)
    assert said.status == 0, said.err
    return said


@pytest.fixture
def clone(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with what the page takes from the repository, and the script that it shows."""
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    (script,) = [block for block in blocks() if block.startswith("import csv")]
    (tmp_path / "shapes.py").write_text(script)
    return tmp_path


def test_the_page_goes_through_the_doors_in_order() -> None:
    assert doors() == [
        "shapes.py",
        "cots_jax.prepare",
        "cots_jax.prepare",
        "cots_jax.main",
        "cots_jax.evaluate",
    ]
    (main,) = [words[3:] for words in commands() if words[2:3] == ["cots_jax.main"]]
    config = str(PROJECT / "configs")
    asked = parse_arguments([word.replace("=configs", f"={config}") for word in main], "")
    assert asked.config.duration == "300 steps"


def test_the_pairs_are_drawn_and_prepared(clone: pathlib.Path) -> None:
    for words in commands()[:2]:
        type_in(clone, words)
    facts = json.loads((clone / "data/mine/dataset.json").read_text())
    assert {name: split["pairs"] for name, split in facts["splits"].items()} == {
        "train": 50,
        "val": 14,
    }
    shown = (clone / "captions.csv").read_text().splitlines()[:3]
    assert blocks()[1].splitlines()[:3] == shown
    assert facts["drops"] == {}


@pytest.mark.slow
def test_all_of_it_from_an_empty_folder(clone: pathlib.Path) -> None:
    said = [type_in(clone, words) for words in commands()]
    assert "50 pictures / 50 pairs, val 14 pictures / 14 pairs" in said[1].err
    for file in ("data/mine/contact_sheet.html", "runs/mine/report.html"):
        assert (clone / file).stat().st_size > 0
    (result,) = json.loads((clone / "runs/mine/results.json").read_text())["results"]
    for direction in ("image_to_text", "text_to_image"):
        assert result[direction]["r1"] > 50  # chance is 7; machines differ by rounding
    assert "candidates" in said[-1].out
