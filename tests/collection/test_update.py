# SPDX-License-Identifier: Apache-2.0
"""Indexes that follow their collection: restart, damage, refusal, and any sequence of changes."""

import errno
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pytest
from doors import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_index import PART, Stub, build, held, save_picture

from cots_jax.collection import query
from cots_jax.collection.originals import open_originals
from cots_jax.errors import UserError
from cots_jax.retrieval.index import Index, ReplacedError
from cots_jax.retrieval.index_files import (
    INDEX_FILE,
    Part,
    Storage,
    part_file,
    part_vectors,
    read_facts,
)


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """Ten pictures in three folders."""
    for number in range(10):
        save_picture(tmp_path / "photos" / f"{number % 3}" / f"{number}.png", number)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "index"


def files(folder: pathlib.Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


class TestASecondTime:
    def test_nothing_changed_loads_no_model(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        before, again = files(out), Stub()
        said = build(photos, out, again).summary(out)
        assert "10 pictures; nothing changed; nothing was skipped" in said
        assert (again.loads, files(out)) == (0, before)

    def test_only_what_is_new_is_embedded(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        save_picture(photos / "new.png", 99)
        (photos / "0" / "0.png").unlink()
        again = Stub()
        done = build(photos, out, again)
        assert (again.embedded, done.embedded, done.dropped) == (1, 1, 1)
        assert set(held(out).rows) == {
            p.relative_to(photos).as_posix() for p in photos.rglob("*.png")
        }

    def test_a_touched_picture_is_known_by_its_content(
        self, photos: pathlib.Path, out: pathlib.Path
    ) -> None:
        build(photos, out, Stub())
        os.utime(photos / "0" / "0.png", ns=(1, 1))
        again = Stub()
        assert build(photos, out, again).embedded == 0
        assert again.loads == 0
        assert held(out).rows["0/0.png"][0].stamp.endswith(":1")
        shutil.rmtree(out / "img_emb")  # and the stamp is known from now on
        build(photos, out, Stub())
        build(photos, out.with_name("fresh"), Stub())
        assert held(out) == held(out.with_name("fresh"))

    def test_a_broken_picture_is_not_read_again(
        self, photos: pathlib.Path, out: pathlib.Path
    ) -> None:
        (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
        assert build(photos, out, Stub()).facts.skipped == {"picture_unreadable": 1}
        before = files(out)
        done = build(photos, out, Stub())
        assert "nothing changed; skipped picture_unreadable 1 (see skipped.jsonl)" in done.summary(
            out
        )
        assert files(out) == before
        save_picture(photos / "broken.jpg", 5)
        done = build(photos, out, Stub())
        assert (done.embedded, done.facts.skipped) == (1, {})
        assert (out / "skipped.jsonl").read_text() == ""

    def test_what_the_system_refuses_is_read_again(
        self, photos: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build(photos, out, Stub())
        save_picture(photos / "new.png", 99)
        save_picture(photos / "0" / "0.png", 98)  # touched
        before, read = held(out), pathlib.Path.read_bytes

        def fails(path: pathlib.Path) -> bytes:
            if path.name in ("new.png", "0.png"):
                raise OSError(errno.EIO, "Input/output error")
            return read(path)

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "read_bytes", fails)
            assert build(photos, out, Stub()).facts.skipped == {"picture_unreadable": 1}
        assert held(out).rows == before.rows
        done = build(photos, out, Stub())
        assert (done.embedded, done.facts.skipped) == (2, {})
        build(photos, out.with_name("fresh"), Stub())
        assert held(out) == held(out.with_name("fresh"))

    def test_a_collection_that_was_moved(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        moved = photos.rename(photos.with_name("moved"))
        again = Stub()
        assert build(moved, out, again).embedded == 0
        assert read_facts(out).images["path"] == str(moved)

    def test_a_collection_that_was_moved_behind_a_link(
        self, photos: pathlib.Path, out: pathlib.Path
    ) -> None:
        build(photos, out, Stub())
        moved = photos.rename(photos.with_name("moved"))
        photos.symlink_to(moved, target_is_directory=True)
        (row,) = Index.open(out).rows([0])
        with open_originals(read_facts(out).images) as originals:
            assert originals.picture(row, 0) == (moved / row.name).read_bytes()
        again = Stub()
        assert build(photos, out, again).embedded == 0
        assert read_facts(out).images["path"] == str(moved)

    def test_small_parts_are_joined(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        for number in range(20, 40):
            save_picture(photos / f"{number}.png", number)
            build(photos, out, Stub())
        parts = read_facts(out).parts
        assert len(parts) <= 2 * 30 / PART + 1
        assert len(list((out / "metadata").iterdir())) == len(parts)


class TestAKill:
    @pytest.mark.parametrize("after", [0, 4, 5, 9])
    def test_finished_parts_are_found_again(
        self, photos: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, after: int
    ) -> None:
        monkeypatch.setattr("cots_jax.collection.update.EMBED_BATCH", 1)
        with pytest.raises(KeyboardInterrupt):
            build(photos, out, Stub(fail_after=after))
        with pytest.raises(UserError, match=r"there is no index|was not finished: go on"):
            Index.open(out)
        again = Stub()
        build(photos, out, again)
        assert again.embedded == 10 - after // PART * PART
        build(photos, out.with_name("fresh"), Stub())
        assert held(out) == held(out.with_name("fresh"))

    def test_with_a_real_kill(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        program = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
            "from stub_index import Stub, build; from cots_jax.collection import update; "
            "update.EMBED_BATCH = 1; "
            "build(Path(sys.argv[2]), Path(sys.argv[3]), Stub(seconds=0.1))"
        )
        here = pathlib.Path(__file__).parent
        killed = subprocess.Popen(
            [sys.executable, "-c", program, str(here), str(photos), str(out)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        while killed.poll() is None and not part_file(out, "metadata", 0).exists():
            time.sleep(0.01)
        killed.kill()
        assert killed.wait() == -9
        assert not (out / INDEX_FILE).exists()
        again = Stub()
        build(photos, out, again)
        assert again.embedded <= 10 - PART
        build(photos, out.with_name("fresh"), Stub())
        assert held(out) == held(out.with_name("fresh"))

    def test_an_index_stays_the_old_one(
        self, photos: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cots_jax.collection.update.EMBED_BATCH", 1)
        build(photos, out, Stub())
        before = held(out)
        for number in range(8):
            save_picture(photos / "0" / f"{number}.png", 100 + number)
        with pytest.raises(KeyboardInterrupt):
            build(photos, out, Stub(fail_after=6))
        assert held(out) == before
        build(photos, out, Stub())
        build(photos, out.with_name("fresh"), Stub())
        assert held(out) == held(out.with_name("fresh"))

    def test_nothing_of_half_a_part_stays(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        before = {path.name for path in out.rglob("*")}
        shutil.copy(part_file(out, "img_emb", 0), part_file(out, "img_emb", 7))
        (out / "metadata" / ".metadata_7.parquet.unfinished").write_bytes(b"half")
        assert "nothing changed" in build(photos, out, Stub()).summary(out)
        assert {path.name for path in out.rglob("*")} == before

    def test_finished_parts_of_another_model_are_not_taken(
        self, photos: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cots_jax.collection.update.EMBED_BATCH", 1)
        with pytest.raises(KeyboardInterrupt):
            build(photos, out, Stub(fail_after=9))
        other = Stub({"step": 2, "checkpoint": "b"})
        build(photos, out, other)
        assert other.embedded == 10
        assert len(list((out / "img_emb").iterdir())) == len(read_facts(out).parts)


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class TestDamage:
    @pytest.mark.parametrize("kind", ["img_emb", "metadata"])
    @pytest.mark.parametrize("harm", [cut, flip, pathlib.Path.unlink])
    def test_it_is_told_and_mended(
        self,
        photos: pathlib.Path,
        out: pathlib.Path,
        kind: str,
        harm: Callable[[pathlib.Path], None],
    ) -> None:
        build(photos, out, Stub())
        before = held(out)
        harm(part_file(out, kind, 1))
        with pytest.raises(UserError, match=rf"{kind}_1\..*search index` for "):
            Index.open(out).search(np.ones((1, 12), np.float32), 3)
        again = Stub()
        build(photos, out, again)
        assert again.embedded == PART
        assert held(out) == before

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2}'])
    def test_of_the_manifest(self, photos: pathlib.Path, out: pathlib.Path, text: str) -> None:
        build(photos, out, Stub())
        (out / INDEX_FILE).write_text(text)
        with pytest.raises(UserError, match=r"index\.json (cannot be read|is of format 2)"):
            Index.open(out)


class TestWhileItIsAsked:
    """An index that is brought up to date is not told to be damaged."""

    def update(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        """Leaves no part of the index as it was, and six rows."""
        for number in (0, 1, 2, 3):
            (photos / f"{number % 3}" / f"{number}.png").unlink(missing_ok=True)
        build(photos, out, Stub())

    def test_it_is_opened_again(
        self, photos: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build(photos, out, Stub())

        def late(folder: pathlib.Path, part: Part, kind: str) -> np.ndarray:
            self.update(photos, out)
            return part_vectors(folder, part, kind)

        monkeypatch.setattr("cots_jax.retrieval.index.part_vectors", late)
        assert len(Index.open(out)) == 6

    def test_its_rows_are_of_an_index_that_is_gone(
        self, photos: pathlib.Path, out: pathlib.Path
    ) -> None:
        build(photos, out, Stub())
        index, asked = Index.open(out), np.ones((1, 12), np.float32)
        before = index.search(asked, 3).index
        self.update(photos, out)
        np.testing.assert_array_equal(index.search(asked, 3).index, before)
        for read in (lambda: index.rows([0]), lambda: index.where('path has "1"')):
            with pytest.raises(ReplacedError, match="up to date meanwhile: open it again"):
                read()

    def test_a_question_is_asked_again(
        self, photos: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build(photos, out, Stub())
        monkeypatch.setattr(query, "open_model", lambda *_: self.update(photos, out))
        monkeypatch.setattr(query, "query_vector", lambda *_: np.ones(12, np.float32))
        assert len(query.ask(out, query.Question("red"), query.Looking())) == 6


class TestRefusal:
    def test_of_another_model(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        with pytest.raises(UserError, match=r"step 1, .* step 2, .* do not mix: choose another"):
            build(photos, out, Stub({"step": 2, "checkpoint": "b"}))

    def test_of_another_storage(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        with pytest.raises(UserError, match=r"keeps float32, not float16"):
            build(photos, out, Stub(), storage=Storage.FLOAT16)

    def test_of_another_collection(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        with pytest.raises(UserError, match=r"is the index of .*photos: choose another"):
            build(photos / "0", out, Stub())

    def test_of_a_second_writer(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        with (out / ".index.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="another run is writing"):
                build(photos, out, Stub())

    def test_of_a_folder_of_others(self, photos: pathlib.Path) -> None:
        with pytest.raises(UserError, match="holds other files"):
            build(photos / "0", photos / "1", Stub())

    def test_of_an_empty_collection(self, photos: pathlib.Path, out: pathlib.Path) -> None:
        build(photos, out, Stub())
        before = held(out)
        for path in photos.rglob("*.png"):
            path.unlink()
        (photos / "notes.txt").write_text("none left")
        listed = (out / "skipped.jsonl").read_text()
        with pytest.raises(UserError, match=r"no picture .* used: skipped file_ending_unknown 1$"):
            build(photos, out, Stub())
        assert held(out) == before
        assert (out / "skipped.jsonl").read_text() == listed

    def test_of_vectors_that_are_not_finite(
        self, photos: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nan = np.full((10, 12), np.nan, np.float32)
        monkeypatch.setattr(Stub, "_images", lambda *_: nan)
        with pytest.raises(UserError, match="picture embeddings are not finite"):
            build(photos, out, Stub())


def test_half_precision(photos: pathlib.Path, out: pathlib.Path) -> None:
    build(photos, out, Stub())
    build(photos, out.with_name("half"), Stub(), storage=Storage.FLOAT16)
    whole, half = Index.open(out), Index.open(out.with_name("half"))
    query = np.load(part_file(out, "img_emb", 0))[:1]
    one, other = whole.search(query, 10), half.search(query, 10)
    assert np.load(part_file(half.folder, "img_emb", 0)).dtype == np.float16
    assert one.index[0, 0] == other.index[0, 0] == 0
    assert other.score.dtype == np.float32
    np.testing.assert_allclose(one.score, other.score, atol=2e-3)


def test_what_scripts_read(photos: pathlib.Path, out: pathlib.Path) -> None:
    build(photos, out, Stub())
    said = json.loads((out / INDEX_FILE).read_text())
    assert (said["count"], said["width"], said["dtype"]) == (10, 12, "float32")
    assert [part["rows"] for part in said["parts"]] == [4, 4, 2]
    assert said["model"]["step"] == 1


# ---------------------------------------------------------------- any sequence of changes

NAMES = [f"{folder}{number}.png" for folder in ("", "a/") for number in range(4)]
CHANGES = st.lists(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["draw", "remove", "touch", "break"]),
                  st.integers(0, 3)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip


def change(path: pathlib.Path, kind: str, seed: int, clock: int) -> None:
    """What a user may do to a file; every change has a time of its own."""
    if kind == "draw":
        save_picture(path, seed)
    elif kind == "break":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GIF8 no picture")
    elif kind == "remove":
        path.unlink(missing_ok=True)
    if path.exists():
        os.utime(path, ns=(clock, clock))


@settings(max_examples=15)
@given(CHANGES)
def test_any_changes_give_what_a_fresh_index_has(rounds: list[list[tuple[str, str, int]]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        photos, out = pathlib.Path(root) / "photos", pathlib.Path(root) / "index"
        save_picture(photos / "always.png", 7)
        clock = 10**18
        for number, changes in enumerate(rounds):
            for name, kind, seed in changes:
                clock += 1
                change(photos / name, kind, seed, clock)
            build(photos, out, Stub())
            fresh = out.with_name(f"fresh{number}")
            build(photos, fresh, Stub())
            assert held(out) == held(fresh)
            again = Stub()
            assert "nothing changed" in build(photos, out, again).summary(out)
            assert again.loads == 0
