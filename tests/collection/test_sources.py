# SPDX-License-Identifier: Apache-2.0
"""Folders, tars and splits as collections."""

import io
import json
import os
import pathlib
import shutil
import tarfile

import pytest
from doors import run_prepare
from stub_index import Stub, build, held, save_picture

from cots_jax.collection.sources import Skipped, open_source
from cots_jax.errors import UserError


def reasons(images: pathlib.Path | str, out: pathlib.Path) -> dict[str, str]:
    """What a source skips without reading it."""
    with open_source(str(images), out) as source:
        return {one.name: one.reason for one in source.entries() if isinstance(one, Skipped)}


class TestAFolder:
    def test_what_is_not_read(self, tmp_path: pathlib.Path) -> None:
        photos = tmp_path / "photos"
        save_picture(photos / "a.PNG", 1)
        save_picture(photos / ".hidden.png", 1)
        save_picture(photos / ".hidden" / "b.png", 1)
        save_picture(photos / "index" / "own.png", 1)
        (photos / "notes.txt").write_text("x")
        save_picture(tmp_path / "secret.png", 1)
        (photos / "out.png").symlink_to(tmp_path / "secret.png")
        (photos / "dead.png").symlink_to("nothing.png")
        (photos / "loop.png").symlink_to("loop.png")
        (photos / "round").symlink_to(photos, target_is_directory=True)
        (photos / "away").symlink_to(tmp_path, target_is_directory=True)
        os.mkfifo(photos / "pipe.png")
        (photos / os.fsdecode(b"\xff.png")).write_bytes(b"")
        assert reasons(photos, photos / "index") == {
            "notes.txt": "file_ending_unknown",
            "out.png": "file_outside_folder",
            "dead.png": "file_not_regular",
            "loop.png": "file_not_regular",
            "pipe.png": "file_not_regular",
            "round": "link_to_folder",
            "away": "file_outside_folder",
            r"'\udcff.png'": "file_name_not_utf8",
        }
        (photos / "index" / "own.png").unlink()
        done = build(photos, photos / "index", Stub())
        assert set(held(photos / "index").rows) == {"a.PNG"}
        assert done.facts.skipped["file_not_regular"] == 3

    def test_pictures_that_cannot_be_used(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_picture(tmp_path / "photos" / "a.png", 1)
        (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
        (tmp_path / "photos" / "page.gif").write_text("<html>")
        monkeypatch.setattr("cots_jax.data.prepare.pictures.MAX_PIXELS", 32 * 32 - 1)
        save_picture(tmp_path / "photos" / "b.png", 2)
        with pytest.raises(UserError, match="picture_too_large 2, picture_unreadable 2"):
            build(tmp_path / "photos", tmp_path / "index", Stub())
        assert "empty.jpg" in (tmp_path / "index" / "skipped.jsonl").read_text()


class TestATar:
    def write(self, path: pathlib.Path, members: list[tuple[str, bytes]]) -> pathlib.Path:
        with tarfile.open(path, "w") as tar:
            for name, data in members:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        return path

    def picture(self, folder: pathlib.Path, seed: int) -> bytes:
        save_picture(folder / "drawn.png", seed)
        return (folder / "drawn.png").read_bytes()

    def test_its_pictures_have_the_vectors_of_files(self, tmp_path: pathlib.Path) -> None:
        one, two = self.picture(tmp_path, 1), self.picture(tmp_path, 2)
        members = [("./a/1.png", two), ("a/1.png", one), ("../x.png", one), ("2.png", two),
                   ("2.txt", b"words")]  # fmt: skip
        tar = self.write(tmp_path / "photos.tar", members)
        build(tar, tmp_path / "index", Stub())
        save_picture(tmp_path / "photos" / "a" / "1.png", 1)
        save_picture(tmp_path / "photos" / "2.png", 2)
        build(tmp_path / "photos", tmp_path / "other", Stub())
        found, same = held(tmp_path / "index"), held(tmp_path / "other")
        assert {n: row[1:] for n, row in found.rows.items()} == {
            n: row[1:] for n, row in same.rows.items()
        }
        assert found.skipped == {"picture_name_unsafe": 1, "file_not_regular": 1,
                                 "file_ending_unknown": 1}  # fmt: skip

    def test_a_tar_written_anew_keeps_what_is_equal(self, tmp_path: pathlib.Path) -> None:
        one, two = self.picture(tmp_path, 1), self.picture(tmp_path, 2)
        tar = self.write(tmp_path / "photos.tar", [("1.png", one), ("2.png", one)])
        build(tar, tmp_path / "index", Stub())
        self.write(tar, [("1.png", one), ("2.png", two), ("3.png", two)])
        os.utime(tar, ns=(1, 1))
        again = Stub()
        build(tar, tmp_path / "index", again)
        assert again.embedded == 2

    @pytest.mark.parametrize("harm", [lambda data: data[:1500], lambda data: b"\x1f\x8b" + data])
    def test_no_whole_tar(self, tmp_path: pathlib.Path, harm) -> None:
        tar = self.write(tmp_path / "photos.tar", [("1.png", self.picture(tmp_path, 1))])
        tar.write_bytes(harm(tar.read_bytes()))
        with pytest.raises(UserError, match="no whole uncompressed tar"):
            build(tar, tmp_path / "index", Stub())


class TestASplit:
    def prepare(self, root: pathlib.Path, captions: list[str], backwards: bool = False) -> None:
        for number in range(len(captions)):
            save_picture(root / "photos" / f"{number}.png", number)
        lines = [json.dumps({"image": f"{number}.png", "caption": caption.split("|")})
                 for number, caption in enumerate(captions)]  # fmt: skip
        (root / "captions.jsonl").write_text("\n".join(lines[::-1] if backwards else lines))
        shutil.rmtree(root / "mine", ignore_errors=True)
        flags = ["--captions=captions.jsonl", "--images=photos", "--out=mine", "--held_out=0"]
        assert run_prepare(root, "pairs", *flags).status == 0

    def test_captions_and_their_vectors_are_kept(self, tmp_path: pathlib.Path) -> None:
        self.prepare(tmp_path, ["a red car|a car", "two dogs"])
        build(f"{tmp_path / 'mine'}#train", tmp_path / "index", Stub())
        found = held(tmp_path / "index").rows
        assert found["0.png"][0].captions == ("a red car", "a car")
        assert {len(row) for row in found.values()} == {3}

    def test_only_other_records_are_embedded(self, tmp_path: pathlib.Path) -> None:
        self.prepare(tmp_path, ["a red car", "two dogs", "a tree"])
        images, out = f"{tmp_path / 'mine'}#train", tmp_path / "index"
        build(images, out, Stub())
        self.prepare(tmp_path, ["a red car", "two cats", "a tree", "a house"])
        again = Stub()
        done = build(images, out, again)
        assert (again.embedded, done.dropped) == (2, 1)
        build(images, tmp_path / "fresh", Stub())
        assert held(out) == held(tmp_path / "fresh")

    def test_where_a_record_comes_from_is_that_of_now(self, tmp_path: pathlib.Path) -> None:
        self.prepare(tmp_path, ["a red car", "two dogs", "a tree"])
        images, out = f"{tmp_path / 'mine'}#train", tmp_path / "index"
        build(images, out, Stub())
        self.prepare(tmp_path, ["a red car", "two dogs", "a tree"], backwards=True)
        again = Stub()
        build(images, out, again)
        assert again.embedded == 0
        assert held(out).rows["0.png"][0].source == "captions.jsonl:3"
        build(images, tmp_path / "fresh", Stub())
        assert held(out) == held(tmp_path / "fresh")

    def test_the_fingerprint_says_that_nothing_changed(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.prepare(tmp_path, ["a red car"])
        images, out = f"{tmp_path / 'mine'}#train", tmp_path / "index"
        build(images, out, Stub())
        monkeypatch.setattr("cots_jax.collection.sources._split_entries", None)
        assert "nothing changed" in build(images, out, Stub()).summary(out)

    def test_without_the_list_of_skipped_ones_all_is_looked_at(
        self, tmp_path: pathlib.Path
    ) -> None:
        self.prepare(tmp_path, ["a red car"])
        images, out = f"{tmp_path / 'mine'}#train", tmp_path / "index"
        build(images, out, Stub())
        (out / "skipped.jsonl").unlink()
        assert "nothing changed" in build(images, out, Stub()).summary(out)
        assert (out / "skipped.jsonl").exists()

    def test_a_prepared_folder_needs_its_split(self, tmp_path: pathlib.Path) -> None:
        self.prepare(tmp_path, ["a red car"])
        with pytest.raises(UserError, match=r"name one of its splits, --images=.*mine#train"):
            build(tmp_path / "mine", tmp_path / "index", Stub())


def test_what_does_not_exist(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="does not exist: give a folder or an uncompressed tar"):
        build(tmp_path / "none", tmp_path / "index", Stub())
    with pytest.raises(UserError, match="no prepared data in"):
        build(f"{tmp_path / 'none'}#val", tmp_path / "index", Stub())


def test_a_number_sign_in_a_folder_name(tmp_path: pathlib.Path) -> None:
    save_picture(tmp_path / "holiday #2" / "a.png", 1)
    build(tmp_path / "holiday #2", tmp_path / "index", Stub())
    assert set(held(tmp_path / "index").rows) == {"a.png"}
