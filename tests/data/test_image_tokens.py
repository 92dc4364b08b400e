# SPDX-License-Identifier: Apache-2.0
"""Image tokens made ahead of time: whole, in the records' order, refused where they do not fit."""

import dataclasses
import io
import json

import numpy as np
import PIL.Image
import pytest

from cots_jax.data import image_tokens
from cots_jax.data.image_tokens import (
    FACTS_FILE,
    IDS_FILE,
    PART_FILE,
    TokenFacts,
    open_tokens,
    shared_facts,
    token_facts,
    write_tokens,
)
from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.pipeline import load_pairs
from cots_jax.data.prepare.write import Plan, prepare_folder
from cots_jax.data.records import Record, open_split, read_facts
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.errors import UserError

SIZE, GRID, TRAIN, VAL = 8, 2, 40, 5


def make_folder(path, shift=0):
    """Record i is a picture of one grey, the same as its number; every third has two captions."""

    def fill(writer):
        for split, count in (("train", TRAIN), ("val", VAL)):
            for number in range(count):
                file = io.BytesIO()
                PIL.Image.new("RGB", (SIZE, SIZE), (number + shift,) * 3).save(file, "PNG")
                captions = (f"word {number}", "more")[: 1 + (number % 3 == 0)]
                name = f"{split}{number}"
                group = writer.group_id(name)
                writer.add(
                    split, Record(name, file.getvalue(), captions, captions, name, group, "1")
                )

    prepare_folder(path, Plan("d", "pairs", "", SIZE, {"shift": shift}), fill)
    return path


def facts_of(folder, **changes):
    fingerprint = read_facts(folder)["fingerprint"]
    facts = TokenFacts("dalle", "abc", 8192, GRID, SIZE, "float32", fingerprint)
    return dataclasses.replace(facts, **changes)


def encode(images):
    """Four codes that tell the picture's grey and their own place."""
    assert images.shape == (image_tokens.BATCH, 1, SIZE, SIZE, 3)
    grey = images[:, 0, 0, 0, 0].astype(np.int64)
    return 100 * np.arange(GRID**2)[None] + grey[:, None]


def table_of(*folders, grid=GRID, split="train"):
    sources = [Source(str(folder), split) for folder in folders]
    tokenizer = train_wordpiece(["word more"], 30)
    return PairTable(sources, tokenizer, size=SIZE, length=6, token_grid=grid)


def test_every_record_has_its_own_ids(tmp_path):
    folder = make_folder(tmp_path / "d")
    assert write_tokens(folder, facts_of(folder), encode)
    assert token_facts(folder) == facts_of(folder)
    with open_split(folder, "train") as split:
        ids = open_tokens(folder, split)
        assert ids.dtype == np.uint16
        np.testing.assert_array_equal(ids[:, 0], np.arange(TRAIN))
        np.testing.assert_array_equal(ids[:, 3], 300 + np.arange(TRAIN))
    assert not (folder / PART_FILE).exists()
    assert not write_tokens(folder, facts_of(folder), lambda images: pytest.fail("made twice"))


def test_batches_hold_the_ids_of_their_pictures(tmp_path):
    folders = [make_folder(tmp_path / "a"), make_folder(tmp_path / "b", shift=50)]
    for folder in folders:
        write_tokens(folder, facts_of(folder), encode)
    table = table_of(*folders)
    pairs = np.array([0, 1, 5, table.pairs - 1, -1], np.int32)
    batch = load_pairs(table, pairs, np.zeros((5, GRID**2), bool))
    grey = batch.image[:, 0, 0, 0, 0].astype(np.int32)
    np.testing.assert_array_equal(batch.image_tokens[:, 0], grey)
    assert batch.image_tokens.dtype == np.int32
    assert grey[3] == 50 + TRAIN - 1
    assert (
        load_pairs(table_of(folders[0], grid=0), pairs[:2], batch.image_mask).image_tokens is None
    )


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(image_tokens, "SAVE_EVERY", 1)
    folder = make_folder(tmp_path / "d")
    calls = []

    def stops(images):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(images))
        return encode(images)

    with pytest.raises(KeyboardInterrupt):
        write_tokens(folder, facts_of(folder), stops)
    assert token_facts(folder) is None
    assert json.loads((folder / PART_FILE).read_text())["done"] == {"train": image_tokens.BATCH}

    def counts(images):
        calls.append(len(images))
        return encode(images)

    write_tokens(folder, facts_of(folder), counts)
    assert len(calls) == 1 + 2  # the rest of train, and val
    with open_split(folder, "train") as split:
        np.testing.assert_array_equal(open_tokens(folder, split)[:, 0], np.arange(TRAIN))


class StoppedError(Exception):
    """What a test ends a run with."""


def stopping_after(batches):
    """An encoder that is stopped when it has encoded so many batches."""
    calls = []

    def encode_some(images):
        if len(calls) == batches:
            raise StoppedError
        calls.append(len(images))
        return encode(images)

    return encode_some


def test_runs_of_two_tokenizers_that_are_stopped_in_turn_mix_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(image_tokens, "SAVE_EVERY", 1)
    folder = make_folder(tmp_path / "d")
    for facts, batches in ((facts_of(folder), 1), (facts_of(folder, digest="other"), 0)):
        with pytest.raises(StoppedError):
            write_tokens(folder, facts, stopping_after(batches))
    write_tokens(folder, facts_of(folder), encode)
    with open_split(folder, "train") as split:
        np.testing.assert_array_equal(open_tokens(folder, split)[:, 0], np.arange(TRAIN))


@pytest.mark.parametrize("left", [None, b"", np.zeros((TRAIN, 9), np.uint16), np.zeros(3)])
def test_a_file_that_is_not_what_the_note_speaks_of_is_made_anew(tmp_path, monkeypatch, left):
    monkeypatch.setattr(image_tokens, "SAVE_EVERY", 1)
    folder = make_folder(tmp_path / "d")
    with pytest.raises(StoppedError):
        write_tokens(folder, facts_of(folder), stopping_after(1))
    file = folder / "train" / IDS_FILE
    file.unlink()
    if isinstance(left, bytes):
        file.write_bytes(left)
    elif left is not None:
        np.save(file, left)
    write_tokens(folder, facts_of(folder), encode)
    with open_split(folder, "train") as split:
        np.testing.assert_array_equal(open_tokens(folder, split)[:, 0], np.arange(TRAIN))


@pytest.mark.parametrize("text", ["{", "[]", '{"facts": 1, "done": 2}'])
def test_a_damaged_note_of_progress_starts_anew(tmp_path, text):
    folder = make_folder(tmp_path / "d")
    (folder / PART_FILE).write_text(text)
    assert write_tokens(folder, facts_of(folder), encode)


def test_ids_of_another_tokenizer_are_not_overwritten(tmp_path):
    folder = make_folder(tmp_path / "d")
    write_tokens(folder, facts_of(folder), encode)
    with pytest.raises(UserError, match=f"remove {folder}/{FACTS_FILE}"):
        write_tokens(folder, facts_of(folder, digest="other"), encode)


class TestUnfit:
    def test_nothing_made(self, tmp_path):
        folder = make_folder(tmp_path / "d")
        assert shared_facts([str(folder)], SIZE, GRID) is None
        assert table_of(folder).token_facts is None

    def test_one_source_without(self, tmp_path):
        one, other = make_folder(tmp_path / "a"), make_folder(tmp_path / "b", shift=1)
        write_tokens(one, facts_of(one), encode)
        with pytest.raises(UserError, match=f"{other} has none: run its prepare"):
            shared_facts([str(one), str(other)], SIZE, GRID)

    def test_two_tokenizers(self, tmp_path):
        one, other = make_folder(tmp_path / "a"), make_folder(tmp_path / "b", shift=1)
        write_tokens(one, facts_of(one), encode)
        write_tokens(other, facts_of(other, digest="other"), encode)
        with pytest.raises(UserError, match="different tokenizers"):
            shared_facts([str(one), str(other)], SIZE, GRID)

    @pytest.mark.parametrize(("size", "grid"), [(16, GRID), (SIZE, 4)])
    def test_another_tower(self, tmp_path, size, grid):
        folder = make_folder(tmp_path / "d")
        write_tokens(folder, facts_of(folder), encode)
        with pytest.raises(UserError, match=rf"{grid} x {grid} patches of {size} px: remove"):
            shared_facts([str(folder)], size, grid)

    def test_other_rows(self, tmp_path):
        folder = make_folder(tmp_path / "d")
        write_tokens(folder, facts_of(folder, fingerprint="old"), encode)
        with pytest.raises(UserError, match="belongs to other rows"):
            token_facts(folder)

    def test_codes_beyond_the_codebook(self, tmp_path):
        folder = make_folder(tmp_path / "d")
        write_tokens(folder, facts_of(folder, codes=300), encode)
        with pytest.raises(UserError, match=r"damaged \(codes 0 to 302 of 300\)"):
            table_of(folder).image_tokens(np.arange(3, dtype=np.int32))

    def test_damage(self, tmp_path):
        folder = make_folder(tmp_path / "d")
        write_tokens(folder, facts_of(folder), encode)
        file = folder / "train" / IDS_FILE
        whole = file.read_bytes()
        file.write_bytes(whole[:-10])
        with pytest.raises(UserError, match="make"):
            table_of(folder)
        file.unlink()
        with pytest.raises(UserError, match="cannot be read"):
            table_of(folder)
        (folder / FACTS_FILE).write_text("{}")
        with pytest.raises(UserError, match="is damaged"):
            table_of(folder)
