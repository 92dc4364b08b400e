# SPDX-License-Identifier: Apache-2.0
"""Pictures are found in folders and tars by the names of the table, and never outside them."""

import io
import os
import pathlib
import tarfile

import pytest

from cots_jax.data.prepare import images as module
from cots_jax.data.prepare.images import Images, safe_name
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.errors import UserError

FILES = {"a.jpg": b"A", "deep/b.jpg": b"B", "deep/c.jpg": b"C1", "other/c.jpg": b"C2"}


def _folder(root: pathlib.Path) -> pathlib.Path:
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def _tar(path: pathlib.Path, mode: str = "w") -> pathlib.Path:
    with tarfile.open(path, mode) as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo("./" + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


@pytest.fixture(params=["folder", "tar"])
def images(request, tmp_path):
    make = {"folder": lambda: _folder(tmp_path / "root"), "tar": lambda: _tar(tmp_path / "t.tar")}
    with Images(make[request.param]()) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jpg", b"A"),
        ("./a.jpg", b"A"),
        ("images/a.jpg", b"A"),
        ("b.jpg", b"B"),
        ("deep//b.jpg", b"B"),
        ("deep\\b.jpg", b"B"),
        ("root/deep/b.jpg", b"B"),
        ("other/c.jpg", b"C2"),
    ],
)
def test_names_are_found(images, name, data):
    assert images.read(images.locate(name)) == data


def test_absolute_names_are_found_where_they_lie_in_the_folder(tmp_path):
    root = _folder(tmp_path / "root")
    (tmp_path / "link").symlink_to(root)
    for given in (root, tmp_path / "link"):
        with Images(given) as opened:
            assert opened.locate(f"{given}/deep/b.jpg") == "deep/b.jpg"
            assert opened.locate(f"{root}/a.jpg") == "a.jpg"
            with pytest.raises(PictureError, match="picture_name_unsafe"):
                opened.locate(f"{tmp_path}/a.jpg")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("d.jpg", "picture_missing"),
        ("wrong/b.jpg", "picture_missing"),
        (".", "picture_missing"),
        ("deep", "picture_missing"),
        ("c.jpg", "picture_name_ambiguous"),
        ("/etc/passwd", "picture_name_unsafe"),
        ("../a.jpg", "picture_name_unsafe"),
        ("deep/../../a.jpg", "picture_name_unsafe"),
        ("..\\a.jpg", "picture_name_unsafe"),
        ("C:\\a.jpg", "picture_name_unsafe"),
        ("a\0.jpg", "picture_name_unsafe"),
    ],
)
def test_other_names_have_a_reason(images, name, reason):
    with pytest.raises(PictureError, match=reason):
        images.locate(name)


def test_links_out_of_the_folder_are_refused_and_those_within_are_followed(tmp_path):
    root = _folder(tmp_path / "root")
    (tmp_path / "secret.jpg").write_bytes(b"S")
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "in.jpg").symlink_to(root / "a.jpg")
    (root / "dead.jpg").symlink_to(root / "gone.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    os.mkfifo(root / "pipe.jpg")
    with Images(root) as images:
        assert images.read(images.locate("in.jpg")) == b"A"
        for name, reason in [
            ("out.jpg", "picture_outside_folder"),
            ("dead.jpg", "picture_missing"),
            ("loop.jpg", "picture_missing"),
            ("pipe.jpg", "picture_missing"),
        ]:
            with pytest.raises(PictureError, match=reason):
                images.read(images.locate(name))


def test_so_are_links_to_folders(tmp_path):
    root = _folder(tmp_path / "root")
    elsewhere = _folder(tmp_path / "elsewhere")
    (root / "out").symlink_to(elsewhere)
    (root / "in").symlink_to(root / "deep")
    with Images(root) as images:
        assert images.read(images.locate("in/c.jpg")) == b"C1"
        assert images.read(images.locate("in/b.jpg")) == b"B"
        with pytest.raises(PictureError, match="picture_outside_folder"):
            images.locate("out/a.jpg")
        with pytest.raises(PictureError, match="picture_missing"):
            images.locate("out/d.jpg")
        with pytest.raises(PictureError, match="picture_missing"):
            images.locate("x" * 300)


def test_a_tar_has_no_links_and_its_later_members_win(tmp_path):
    path = _tar(tmp_path / "t.tar")
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"new"))
    with Images(path) as images:
        assert images.read(images.locate("a.jpg")) == b"new"
        with pytest.raises(PictureError, match="picture_missing"):
            images.locate("link.jpg")


def test_files_too_large_are_not_read(images, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    with pytest.raises(PictureError, match="picture_too_large"):
        images.read(images.locate("deep/c.jpg"))


def test_a_compressed_a_cut_and_a_foreign_archive_name_the_remedy(tmp_path):
    cut = _tar(tmp_path / "cut.tar")
    cut.write_bytes(cut.read_bytes()[:700])
    (tmp_path / "x.zip").write_bytes(b"PK\3\4" + bytes(600))
    for path in (_tar(tmp_path / "t.tar.gz", "w:gz"), cut, tmp_path / "x.zip"):
        with pytest.raises(UserError, match=r"no whole uncompressed tar .*gunzip"):
            Images(path)


def test_a_missing_source_says_so(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Images(tmp_path / "nowhere")


def test_safe_names_are_left_as_they_are():
    assert safe_name("images/1000_a b.jpg") == "images/1000_a b.jpg"
