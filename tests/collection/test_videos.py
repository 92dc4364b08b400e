# SPDX-License-Identifier: Apache-2.0
"""Folders of videos as collections."""

import os
import pathlib

import numpy as np
import pytest
from films import levels, write_film
from stub_index import PART, Stub

from cots_jax.collection.update import Updated, update
from cots_jax.collection.videos import open_videos
from cots_jax.errors import UserError
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import Row

pytest.importorskip("av", reason="needs the extra cots_jax[video]")


@pytest.fixture
def clips(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two films of four and two pieces, and what is none."""
    (tmp_path / "clips" / "deep").mkdir(parents=True)
    write_film(tmp_path / "clips" / "deep" / "long.mp4", levels(40))
    write_film(tmp_path / "clips" / "short.mkv", levels(20)[::-1])
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "clips" / "notes.txt").write_text("words")
    return tmp_path / "clips"


def build(clips: pathlib.Path, out: pathlib.Path, stub: Stub, seconds: float = 0.4) -> Updated:
    with open_videos(str(clips), seconds, out) as source:
        return update(out, source, stub.maker(), PART)


def rows(out: pathlib.Path) -> list[Row]:
    index = Index.open(out)
    return index.rows(range(len(index)))


def test_a_row_for_each_piece(clips: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, stub = tmp_path / "index", Stub()
    done = build(clips, out, stub)
    assert (done.embedded, stub.embedded) == (6, 6)
    assert done.facts.skipped == {"video_unreadable": 1, "file_ending_unknown": 1}
    times = {(row.name, row.start, row.end) for row in rows(out)}
    assert times == {("short.mkv", 0.4 * n, 0.4 * (n + 1)) for n in range(2)} | {
        ("deep/long.mp4", n / 10, (n + 4) / 10) for n in (0, 4, 8, 12)
    }
    index = Index.open(out)
    mask = index.where('start >= 0.8 and path starts "deep/"')
    assert {(row.start, row.end) for row in index.rows(np.flatnonzero(mask))} == {
        (0.8, 1.2), (1.2, 1.6)}  # fmt: skip


def test_a_video_stays_whole(
    clips: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pieces of a video are written at once: a killed run has all of them or none."""
    monkeypatch.setattr("cots_jax.collection.update.EMBED_BATCH", 1)
    write_film(clips / "z.mp4", levels(30))
    out, again = tmp_path / "index", Stub()
    with pytest.raises(KeyboardInterrupt):
        build(clips, out, Stub(fail_after=8))
    assert build(clips, out, again).embedded == 4  # those of deep/long.mp4, which comes last
    assert len(rows(out)) == 9


def test_changes_of_the_folder(clips: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "index"
    build(clips, out, Stub())
    assert "nothing changed" in build(clips, out, Stub()).summary(out)
    os.utime(clips / "short.mkv", ns=(1, 1))
    touched = Stub()
    assert build(clips, out, touched).embedded == 0
    assert touched.loads == 0
    assert "nothing changed" in build(clips, out, Stub()).summary(out)
    write_film(clips / "deep" / "long.mp4", levels(30))
    (clips / "short.mkv").unlink()
    done = build(clips, out, Stub())
    assert (done.embedded, done.dropped) == (3, 6)
    assert {(row.name, row.start) for row in rows(out)} == {
        ("deep/long.mp4", start) for start in (0.0, 0.4, 0.8)
    }


def test_refusals(clips: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "index"
    build(clips, out, Stub())
    with pytest.raises(UserError, match=r"is the index of .*clips in pieces of 0\.4 s: choose"):
        build(clips, out, Stub(), seconds=8.0)
    with pytest.raises(UserError, match=r"--videos=.*short\.mkv is no folder"):
        build(clips / "short.mkv", out, Stub())
    with pytest.raises(UserError, match="--seconds=0: take pieces of"):
        build(clips, out, Stub(), seconds=0.0)
