# SPDX-License-Identifier: Apache-2.0
"""Batches of videos: which frames they hold, alike however they are read, beside stills or not."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from cots_jax.data import pair_table
from cots_jax.data.frames import FrameChoice, chosen_frames, drawn_offsets, middle_frames
from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.pipeline import image_batches, training_batches
from cots_jax.data.prepare.write import Plan, prepare_folder
from cots_jax.data.records import Record
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.errors import UserError
from cots_jax.switches import Cache

SIZE, t, b, SEED = 8, 4, 6, 1
COUNTS = [9, 1, 3, 4, 12, 7]  # stored frames of each video
CACHES = pytest.mark.parametrize("cache", [Cache.MEMORY, Cache.NONE])


def grey(level: int) -> bytes:
    """A lossless picture of one grey."""
    out = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (level,) * 3).save(out, "PNG")
    return out.getvalue()


def level(video: int, frame: int) -> int:
    return 20 * video + frame


def write(folder, counts, frames) -> str:
    def fill(writer):
        for i, count in enumerate(counts):
            jpegs = tuple(grey(level(i, frame)) for frame in range(count))
            image = jpegs[count // 2] if frames else grey(200 + i)
            stored = jpegs if frames else ()
            texts = ("a dog runs", "a cat sleeps")
            record = Record(f"v{i}", image, texts, texts, f"v{i}", writer.new_group(), "", stored)
            writer.add("train", record)

    prepare_folder(folder, Plan(folder.name, "test", "none", 8, {}, frames=frames), fill)
    return str(folder)


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(["a dog runs", "a cat sleeps"], 60)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "videos", COUNTS, 12)


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "stills", [1, 1, 1], 0)


@pytest.fixture(scope="module")
def make(tokenizer):
    def table(*folders, **more):
        sources = [Source(folder, "train") for folder in folders]
        return PairTable(sources, tokenizer, size=SIZE, length=6, **{"frames": t, **more})

    return table


def shown(images: np.ndarray) -> np.ndarray:
    """[b, t]: the grey of each frame."""
    assert (images == images[..., :1, :1, :1]).all()
    return images[..., 0, 0, 0]


def train(table, **more):
    stream = training_batches(table, b, SEED, masked=1, patch_side=2, **more)
    return list(itertools.islice(iter(stream), 5))


@CACHES
@pytest.mark.parametrize("choice", list(FrameChoice))
def test_evaluation_looks_at_the_middle_of_every_segment(make, videos, cache, choice):
    with make(videos, cache=cache, frame_choice=choice) as table:
        (batch,) = image_batches(table, 8)
    assert batch.image.shape == (8, t, SIZE, SIZE, 3)
    wanted = [[level(i, f) for f in middle_frames(count, t)] for i, count in enumerate(COUNTS)]
    np.testing.assert_array_equal(shown(batch.image)[:6], wanted)
    np.testing.assert_array_equal(batch.weight, [1] * 6 + [0] * 2)


@CACHES
def test_one_frame_is_the_picture_of_the_video(make, videos, cache):
    with make(videos, cache=cache, frames=1) as table:
        (batch,) = image_batches(table, 6)
        drawn = train(table)
    wanted = [[level(i, count // 2)] for i, count in enumerate(COUNTS)]
    np.testing.assert_array_equal(shown(batch.image), wanted)
    for found in drawn:
        rows = table.record_of_pair[found.pair_id]
        np.testing.assert_array_equal(shown(found.image), np.array(wanted)[rows])


@CACHES
def test_training_draws_within_segments_by_seed_and_position(make, videos, cache):
    with make(videos, cache=cache) as table:
        batches = train(table)
    for step, batch in enumerate(batches):
        rows = table.record_of_pair[batch.pair_id]
        offsets = drawn_offsets(SEED, range(step * b, (step + 1) * b), t)
        frames = chosen_frames(np.array(COUNTS)[rows], offsets)
        np.testing.assert_array_equal(shown(batch.image), 20 * rows[:, None] + frames)


def test_frames_do_not_depend_on_threads_cache_or_the_process_that_reads(make, videos):
    with make(videos, cache=Cache.MEMORY) as table, make(videos, cache=Cache.NONE) as other:
        whole = train(table, threads=1)
        for stream in (
            train(other, threads=8),
            [
                np.concatenate([x.image, y.image])
                for x, y in zip(train(table, rows=np.arange(2)), train(other, rows=np.arange(2, b)))
            ],
        ):
            for batch, found in zip(whole, stream, strict=True):
                np.testing.assert_array_equal(batch.image, getattr(found, "image", found))


def test_a_stream_goes_on_with_the_same_frames(make, videos):
    with make(videos) as table:
        whole = train(table)
        stream = iter(training_batches(table, b, SEED, masked=1, patch_side=2))
        next(stream)
        state = stream.get_state()
        again = iter(training_batches(table, b, SEED, masked=1, patch_side=2))
        again.set_state(state)
        np.testing.assert_array_equal(next(again).image, whole[1].image)


@CACHES
def test_a_still_among_videos_is_a_film_of_equal_frames(make, videos, stills, cache):
    with make(videos, stills, cache=cache) as table:
        (batch,) = image_batches(table, 9)
        batches = train(table)
    np.testing.assert_array_equal(shown(batch.image)[6:], [[200] * t, [201] * t, [202] * t])
    for batch in batches:
        found = shown(batch.image)[batch.source == 1]
        assert (found >= 200).all()
        assert (found == found[:, :1]).all()
        assert (shown(batch.image)[batch.source == 0] < 200).all()


def test_pictures_alone_are_not_repeated(make, stills):
    with pytest.raises(UserError, match=r"data\.frames = 4, and there is no video in .*stills#"):
        make(stills)
    with make(stills, frames=1) as table:
        (batch,) = image_batches(table, 3)
    np.testing.assert_array_equal(shown(batch.image), [[200], [201], [202]])


def test_what_is_kept_in_memory_is_counted_in_frames(make, videos, stills, monkeypatch):
    picture = SIZE * SIZE * 3
    monkeypatch.setattr(pair_table, "MEMORY_LIMIT", 12 * 6 * picture)
    with make(videos) as table:
        assert table.cache == Cache.NONE
    with make(videos, frames=1) as table:
        assert table.cache == Cache.MEMORY
    with make(videos, frame_choice=FrameChoice.MIDDLE) as table:
        assert table.cache == Cache.MEMORY
    monkeypatch.setattr(pair_table, "MEMORY_LIMIT", t * 6 * picture)
    with make(videos, frame_choice=FrameChoice.MIDDLE) as table:
        assert table.cache == Cache.NONE
    monkeypatch.setattr(pair_table, "MEMORY_LIMIT", 12 * 6 * picture + 3 * picture + 1)
    with make(videos, stills) as table:
        assert table.cache == Cache.MEMORY


def test_a_frame_that_does_not_decode_names_its_record(make, tmp_path):
    def fill(writer):
        bad = (grey(1), b"no picture", grey(3))
        writer.add("train", Record("v", grey(1), ("x",), ("x",), "v", writer.new_group(), "", bad))

    prepare_folder(tmp_path / "d", Plan("d", "test", "none", 8, {}, frames=3), fill)
    with pytest.raises(UserError, match=r"the picture of record 'v' in .* does not decode"):
        make(str(tmp_path / "d"), cache=Cache.MEMORY)
