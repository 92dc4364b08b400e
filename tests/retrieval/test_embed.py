# SPDX-License-Identifier: Apache-2.0
"""How many frames and rows a set is embedded with."""

import io

import pytest
from PIL import Image

from cots_jax.data.pair_table import Source
from cots_jax.data.prepare.write import Plan, prepare_folder
from cots_jax.data.records import Record, has_videos
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.retrieval.embed import EMBED_BATCH, embedded_rows
from cots_jax.retrieval.evaluation import open_sets


@pytest.mark.parametrize(("frames", "rows"), [(1, 128), (2, 64), (8, 16), (12, 10), (1000, 1)])
def test_memory_does_not_grow_with_the_frames(frames, rows):
    assert embedded_rows(frames) == rows
    assert frames > EMBED_BATCH or rows * frames <= EMBED_BATCH


def _write(folder, frames: int) -> Source:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    stored = (out.getvalue(),) * frames
    record = Record("r", out.getvalue(), ("a dog",), ("a dog",), "r", 0, "", stored)

    def fill(writer):
        writer.add("val", record)

    prepare_folder(folder, Plan(folder.name, "test", "none", 8, {}, frames=frames), fill)
    return Source(str(folder), "val")


def test_pictures_are_looked_at_once_however_many_frames_are_asked_for(tmp_path):
    sources = [_write(tmp_path / "clips", 4), _write(tmp_path / "pictures", 0)]
    assert [has_videos(source.folder) for source in sources] == [True, False]
    tokenizer = train_wordpiece(["a dog"], 40)
    with open_sets(sources, tokenizer, size=8, length=4, frames=3) as sets:
        assert [chosen.table.frames for chosen in sets] == [3, 1]
