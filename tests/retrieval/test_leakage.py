# SPDX-License-Identifier: Apache-2.0
"""What was trained on and is evaluated is noticed; what cannot be looked at is said."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from cots_jax.data.prepare.classes import ClassesOptions, prepare_classes
from cots_jax.retrieval import leakage
from cots_jax.retrieval.contents import digests_of, source_of
from cots_jax.retrieval.leakage import audit
from cots_jax.retrieval.protocols import Leakage


def _prepared(folder: pathlib.Path, word: str = "word", **splits: range) -> str:
    """A prepared folder with these pictures in its splits."""
    source = folder.with_name(folder.name + "-in")
    for split, seeds in splits.items():
        (source / split / word).mkdir(parents=True)
        for seed in seeds:
            noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(source / split / word / f"{seed}.png")
    prepare_classes(folder, ClassesOptions(source=source))
    return str(folder)


def _entry(folder: str, split: str) -> str:
    facts = json.loads((pathlib.Path(folder) / "dataset.json").read_text())
    return f"{folder}#{split} ({facts['fingerprint'][:12]})"


@pytest.fixture(autouse=True)
def _afresh():
    leakage._digests.cache_clear()


def _audit(entries, folder: str, split: str):
    return audit(entries, folder, split, digests_of(folder, split))


def test_the_split_itself_needs_no_folder(tmp_path):
    own = _prepared(tmp_path / "own", train=range(5), val=range(10, 13))
    entry = _entry(own, "val").replace(own, "gone/own")
    found = _audit(["bert-base", entry], own, "val")
    assert found.found == (Leakage("gone/own", "val", 3, 3),)
    assert found.notes("own#val", 3) == [
        "LEAKAGE into own#val: 3 of 3 pictures are in gone/own#val, which this model was trained "
        "on, 3 of them with a caption of theirs"
    ]


def test_another_split_of_the_same_folder_is_clean(tmp_path):
    own = _prepared(tmp_path / "own", train=range(5), val=range(10, 13))
    assert _audit([_entry(own, "train")], own, "val") == leakage.Audit()
    moved = _entry(own, "train").replace(own, "gone/own")
    assert _audit([moved], own, "val") == leakage.Audit()


def test_pictures_in_other_folders_are_counted_the_worst_first(tmp_path):
    own = _prepared(tmp_path / "own", val=range(4))
    some = _prepared(tmp_path / "some", train=range(3, 9))
    more = _prepared(tmp_path / "more", train=range(1, 9))
    found = _audit([_entry(some, "train"), _entry(more, "train")], own, "val")
    assert found.found == (Leakage(more, "train", 3, 3), Leakage(some, "train", 1, 1))
    assert len(found.notes("own#val", 4)) == 2


def test_what_is_not_here_is_said_and_never_fatal(tmp_path, monkeypatch):
    own = _prepared(tmp_path / "own", val=range(4))
    gone = _prepared(tmp_path / "gone", train=range(4))
    anew = _prepared(tmp_path / "anew", train=range(4))
    broken = _prepared(tmp_path / "broken", train=range(4))
    large = _prepared(tmp_path / "large", train=range(4))
    entries = [_entry(folder, "train") for folder in (gone, broken, large)]
    entries.append(f"{anew}#train (0123456789ab)")
    shutil.rmtree(gone)
    (shard,) = (pathlib.Path(broken) / "train").glob("*.array_record")
    shard.unlink()
    found = _audit(entries[:2], own, "val")
    assert found.found == ()
    assert found.not_checked[0] == f"{gone} is not here"
    assert "is missing" in found.not_checked[1]
    monkeypatch.setattr(leakage, "MOST_BYTES", 10)
    found = _audit(entries[2:], own, "val")
    assert "above" in found.not_checked[0] and "--exclude" in found.not_checked[0]
    assert "prepared anew" in found.not_checked[1]
    assert found.notes("own#val", 4)[0].startswith("leakage into own#val not checked: ")


def test_no_lineage_no_findings(tmp_path):
    own = _prepared(tmp_path / "own", val=range(3))
    assert _audit(["clip", "x#y"], own, "val") == leakage.Audit()


def test_pictures_under_other_captions_are_told_apart(tmp_path):
    own = _prepared(tmp_path / "own", val=range(4))
    other = _prepared(tmp_path / "other", word="name", train=range(2, 9))
    found = _audit([_entry(other, "train")], own, "val")
    assert found.found == (Leakage(other, "train", 2, 0),)


@pytest.mark.parametrize(
    ("row", "source"),
    [("t.csv:12", "t.csv"), ("cc3m/00001.tar:7", "cc3m"), ("twemoji/1f600.svg", "twemoji"),
     ("alone", "alone")],
)  # fmt: skip
def test_the_source_of_a_record(row, source):
    assert source_of(row) == source
