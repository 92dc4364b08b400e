# SPDX-License-Identifier: Apache-2.0
"""The pipeline: the same stream however it is read, every pair once an epoch, exact restore."""

import dataclasses
import io
import itertools
import json

import numpy as np
import PIL.Image
import pytest

from cots_jax.data import pair_table
from cots_jax.data.decoding import decode_picture
from cots_jax.data.mixture import Segment
from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.pipeline import (
    image_batches,
    paired_evaluation_batches,
    text_batches,
    training_batches,
)
from cots_jax.data.prepare.write import Plan, prepare_folder
from cots_jax.data.records import Record
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.data.weights import ONCE, Weight
from cots_jax.errors import UserError
from cots_jax.switches import Cache

WORDS = ["red", "green", "blue", "dog", "cat", "bird", "runs", "sleeps", "sings", "here", "there"]
SIZE, LENGTH, SIDE, MASKED = 8, 10, 4, 6


def _png(seed: int, width: int = 10, height: int = 10) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _record(number: int, group_id: int, image: bytes | None = None) -> Record:
    """A picture with one to three captions; two successive records share a group."""
    rng = np.random.default_rng(number)
    captions = tuple(" ".join(rng.choice(WORDS, 4)) for _ in range(1 + number % 3))
    return Record(
        id=f"picture-{number}",
        image=_png(number) if image is None else image,
        captions=captions,
        raw_captions=captions,
        group=str(group_id),
        group_id=group_id,
        source_row=f"row {number}",
    )


def _prepare(folder, splits: dict[str, range], image: bytes | None = None):
    def fill(writer):
        for split, numbers in splits.items():
            for number in numbers:
                writer.add(split, _record(number, writer.group_id(str(number // 2)), image))

    prepare_folder(folder, Plan(folder.name, "test", "none", 10, {}), fill)
    return str(folder)


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([" ".join(WORDS)], 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    splits = {"train": range(20), "more": range(19, 26), "val": range(30, 37)}
    return _prepare(tmp_path_factory.mktemp("data") / "first", splits)


@pytest.fixture(scope="module")
def make(folder, tokenizer):
    """Makes tables over splits of the module's folder."""

    def table(*splits, cache=Cache.MEMORY, **more):
        sources = [Source(folder, split) for split in splits or ("train",)]
        return PairTable(sources, tokenizer, size=SIZE, length=LENGTH, cache=cache, **more)

    return table


def _train(table, batch=8, seed=1, **more):
    return training_batches(table, batch, seed, masked=MASKED, patch_side=SIDE, **more)


def _take(stream, count):
    return list(itertools.islice(iter(stream), count))


def _assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


def test_a_batch_holds_what_the_records_say(make, tokenizer):
    table = make()
    batch = _take(_train(table, batch=8), 1)[0]
    assert batch.image.shape == (8, 1, SIZE, SIZE, 3) and batch.image.dtype == np.uint8
    assert batch.image_mask.shape == (8, SIDE * SIDE)
    assert (batch.image_mask.sum(1) == MASKED).all()
    for name in ("text", "text_length", "pair_id", "group_id", "source"):
        assert getattr(batch, name).dtype == np.int32, name
    for row, pair in enumerate(batch.pair_id):
        record = _record(number := table.record_of_pair[pair], int(number) // 2)
        caption = record.captions[table.caption_of_pair[pair]]
        assert tokenizer.decode(batch.text[row]) == caption
        assert batch.text_length[row] == (batch.text[row] != tokenizer.pad_id).sum()
        np.testing.assert_array_equal(batch.image[row, 0], decode_picture(record.image, SIZE))
        assert batch.group_id[row] == number // 2
    assert (batch.weight == 1).all() and (batch.source == 0).all()


def test_sources_come_as_they_weigh(folder, tokenizer):
    """40 and 14 pairs at 1 and 5: 70 of 110 rows are of the second."""
    sources = [Source(folder, "train"), Source(folder, "more", Weight(5.0))]
    with PairTable(sources, tokenizer, size=SIZE, length=LENGTH) as table:
        whole = _take(_train(table, batch=64), 32)
        again = _take(_train(table, batch=64, rows=np.arange(8, 24)), 2)
    share = np.mean([(batch.source == 1).mean() for batch in whole])
    assert share == pytest.approx(70 / 110, abs=0.02)
    for one, part in zip(whole, again):
        np.testing.assert_array_equal(one.pair_id[8:24], part.pair_id)


def test_weights_that_change_are_those_of_every_process_and_of_every_restart(folder, tokenizer):
    sources = [Source(folder, "train"), Source(folder, "more", Weight(5.0))]
    changes = [Segment(0, (ONCE, ONCE)), Segment(64 * 3 + 20, (ONCE, Weight(5.0)))]
    with PairTable(sources, tokenizer, size=SIZE, length=LENGTH) as table:
        whole = _take(_train(table, batch=64, segments=changes), 8)
        halves = [
            _take(_train(table, batch=64, segments=changes, rows=rows), 8)
            for rows in (np.arange(32), np.arange(32, 64))
        ]
        for stop in (2, 3, 4, 6):
            before = iter(_train(table, batch=64, segments=changes[: 1 + (stop > 3)]))
            for _ in range(stop):
                next(before)
            after = iter(_train(table, batch=64, segments=changes))
            after.set_state(before.get_state())
            _assert_same(list(itertools.islice(after, 8 - stop)), whole[stop:])
        alike = _take(_train(table, batch=64, segments=changes[:1]), 4)
    for number, batch in enumerate(whole):
        joined = [half[number].pair_id for half in halves]
        np.testing.assert_array_equal(np.concatenate(joined), batch.pair_id)
    _assert_same(whole[:3], alike[:3])
    np.testing.assert_array_equal(whole[3].pair_id[:20], alike[3].pair_id[:20])
    assert (whole[3].pair_id[20:] != alike[3].pair_id[20:]).any()


def test_every_pair_once_an_epoch_in_another_order(make):
    table = make()
    assert table.pairs == sum(1 + number % 3 for number in range(20)) == 39
    ids = np.concatenate([batch.pair_id for batch in _take(_train(table, batch=13), 9)])
    epochs = ids.reshape(3, 39)
    for epoch in epochs:
        assert sorted(epoch) == list(range(39))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


def test_batches_straddle_epochs(make):
    ids = np.concatenate([batch.pair_id for batch in _take(_train(make(), batch=16), 5)])
    assert sorted(ids[:39]) == sorted(ids[39:78]) == list(range(39))


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_threads_change_nothing(make, threads):
    table = make()
    _assert_same(_take(_train(table, threads=0), 12), _take(_train(table, threads=threads), 12))


def test_no_cache_changes_nothing(make):
    memory, none = make(cache=Cache.MEMORY), make(cache=Cache.NONE)
    assert (memory.cache, none.cache) == (Cache.MEMORY, Cache.NONE)
    _assert_same(_take(_train(memory), 6), _take(_train(none, threads=3), 6))
    _assert_same(list(image_batches(memory, 7)), list(image_batches(none, 7)))
    _assert_same(list(text_batches(memory, 7)), list(text_batches(none, 7)))


def test_auto_keeps_small_sets_in_memory(make, monkeypatch):
    assert make(cache=Cache.AUTO).cache == Cache.MEMORY
    monkeypatch.setattr(pair_table, "MEMORY_LIMIT", 20 * SIZE * SIZE * 3)
    assert make(cache=Cache.AUTO).cache == Cache.NONE
    assert make(cache=Cache.MEMORY).cache == Cache.MEMORY  # asked for by name


def test_restoring_continues_exactly(make):
    table = make()
    whole = _take(_train(table), 20)
    stream = iter(_train(table, threads=4))
    for _ in range(7):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    assert state == {"next_index": 7}
    for threads in (0, 2, 16):
        again = iter(_train(table, threads=threads))
        again.set_state(state)
        _assert_same(whole[7:], _take(again, 13))


@pytest.mark.parametrize("stride", [1, 2], ids=["runs", "apart"])
@pytest.mark.parametrize("batch", [8, 150])
def test_the_rows_of_processes_make_the_global_batch(make, batch, stride):
    table = make()
    whole = _take(_train(table, batch=batch), 3)
    held = [np.arange(batch)[::2], np.arange(batch)[1::2]]
    if stride == 1:
        held = np.split(np.arange(batch), [batch // 3])
    parts = [_take(_train(table, batch=batch, rows=rows), 3) for rows in held]
    for step in range(3):
        for field in dataclasses.fields(whole[step]):
            wanted = getattr(whole[step], field.name)
            for rows, part in zip(held, parts):
                found = getattr(part[step], field.name)
                if wanted is None:
                    assert found is None
                else:
                    np.testing.assert_array_equal(found, wanted[rows], err_msg=field.name)


def test_seeds_and_steps_differ(make):
    table = make()
    first, second = _take(_train(table, seed=1), 2)
    other = _take(_train(table, seed=2), 1)[0]
    for batch in (second, other):
        assert (first.pair_id != batch.pair_id).any()
        assert (first.image_mask != batch.image_mask).any()


def test_no_masking_is_an_empty_mask(make):
    stream = training_batches(make(), 4, 0, masked=0, patch_side=SIDE)
    assert not _take(stream, 1)[0].image_mask.any()


def test_evaluation_reads_everything_once_in_order(make, tokenizer):
    table = make("val")
    images, texts = list(image_batches(table, 4)), list(text_batches(table, 4))
    assert {batch.image.shape for batch in images} == {(4, 1, SIZE, SIZE, 3)}
    assert {batch.text.shape for batch in texts} == {(4, LENGTH)}
    image_weight = np.concatenate([batch.weight for batch in images])
    assert image_weight.tolist() == [1] * 7 + [0]
    groups = np.concatenate([batch.group_id for batch in images])
    # The groups of a folder are numbered over all splits.
    np.testing.assert_array_equal(groups[:7] - groups[0], [0, 0, 1, 1, 2, 2, 3])
    assert groups[7] == -1
    kept = np.concatenate([batch.weight for batch in texts]) > 0
    text_groups = np.concatenate([batch.group_id for batch in texts])
    captions = [c for number in range(30, 37) for c in _record(number, 0).captions]
    owners = [groups[n] for n in range(7) for _ in range(1 + (30 + n) % 3)]
    assert kept.sum() == len(captions) == table.pairs
    np.testing.assert_array_equal(text_groups[kept], owners)
    assert (text_groups[~kept] == -1).all()
    ids = np.concatenate([batch.text for batch in texts])[kept]
    assert [tokenizer.decode(row) for row in ids] == captions
    pixels = np.concatenate([batch.image for batch in images])[:7, 0]
    for number, picture in enumerate(pixels):
        np.testing.assert_array_equal(picture, decode_picture(_png(30 + number), SIZE))


def test_paired_evaluation_is_one_pair_a_record_with_fixed_masks(make):
    table = make("val")

    def read(batch):
        return list(paired_evaluation_batches(table, batch, masked=MASKED, patch_side=SIDE))

    batches = read(4)
    _assert_same(batches, read(4))
    ids = np.concatenate([batch.pair_id for batch in batches])
    assert ids[-1] == -1 and (table.caption_of_pair[ids[:-1]] == 0).all()
    np.testing.assert_array_equal(table.record_of_pair[ids[:-1]], np.arange(7))
    masks = np.concatenate([batch.image_mask for batch in batches])
    np.testing.assert_array_equal(masks[:7], np.concatenate([b.image_mask for b in read(7)]))
    last = batches[-1]
    assert (last.weight[-1], last.group_id[-1], last.weight[0]) == (0, -1, 1)


def test_sources_keep_groups_apart_between_folders_and_together_within(make, tokenizer, tmp_path):
    within = make("train", "more")
    # Picture 19 stands in both splits, so its group does too.
    assert within.group_of_record[19] == within.group_of_record[20] == 9
    other = _prepare(tmp_path / "second", {"train": range(6)})
    sources = [*within.sources, Source(other, "train")]
    table = PairTable(sources, tokenizer, size=SIZE, length=LENGTH)
    np.testing.assert_array_equal(table.group_of_record[:27], within.group_of_record)
    assert not set(table.group_of_record[27:]) & set(table.group_of_record[:27])
    assert table.records == 33
    batch = _take(_train(table, batch=table.pairs), 1)[0]
    np.testing.assert_array_equal(np.bincount(batch.source), np.bincount(table.source_of_pair))
    assert table.record(27).id == "picture-0" and table.record(20).id == "picture-19"


def test_pictures_of_other_shapes_are_cut_at_the_centre():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = [[[250, 20, 30]]]
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    np.testing.assert_array_equal(decode_picture(file.getvalue(), 10), pixels[:, 10:20])
    assert decode_picture(_png(0, 7, 31), 5).shape == (5, 5, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_print_jpegs_become_rgb(mode):
    file = io.BytesIO()
    PIL.Image.new(mode, (12, 12)).save(file, "JPEG")
    assert decode_picture(file.getvalue(), 8).shape == (8, 8, 3)


def test_large_jpegs_decode_small_to_nearly_the_same_picture():
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    large = PIL.Image.fromarray(coarse).resize((960, 720), PIL.Image.Resampling.BICUBIC)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=95)
    expected = large.resize((48, 48), PIL.Image.Resampling.BICUBIC, box=(120, 0, 840, 720))
    difference = decode_picture(file.getvalue(), 48).astype(int) - np.asarray(expected)
    assert abs(difference).mean() < 1.5


@pytest.mark.parametrize("cache", [Cache.MEMORY, Cache.NONE])
def test_a_broken_picture_is_named(tokenizer, tmp_path, cache):
    folder = _prepare(tmp_path / "broken", {"train": range(3)}, image=b"not a picture")
    with pytest.raises(UserError, match=r"picture of record 'picture-\d' in .*broken/train"):
        table = PairTable([Source(folder, "train")], tokenizer, size=8, length=8, cache=cache)
        _take(_train(table, threads=0), 1)


def test_impossible_tables_are_refused(make, folder, tokenizer):
    with pytest.raises(UserError, match="no data source"):
        PairTable([], tokenizer, size=8, length=8)
    with pytest.raises(UserError, match="no split 'nothing'"):
        make("nothing")
