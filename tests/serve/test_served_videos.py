# SPDX-License-Identifier: Apache-2.0
"""An index of videos, served: a frame of each piece, and the file itself in parts."""

import io
import pathlib

import numpy as np
import pytest
from films import levels, number_of, write_film
from PIL import Image
from small_service import client_of, make_index, write_videos
from starlette.testclient import TestClient

from cots_jax.collection.originals import open_originals
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.video_still import still
from cots_jax.errors import UserError
from cots_jax.serve import videos

pytest.importorskip("av", reason="needs the extra cots_jax[video]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder / "clips")
    make_index(folder / "clips", folder / "index", seconds=2.0)
    return folder


@pytest.fixture(scope="module")
def client(root: pathlib.Path):
    with client_of(root / "index") as client:
        yield client


def hits(client: TestClient, **asked: object) -> list[dict]:
    said = client.get("/api/search", params={"fold": "off", **asked})
    assert said.status_code == 200, said.text
    return said.json()["hits"]


class TestPieces:
    def test_each_has_its_time_and_an_id_of_its_own(self, client: TestClient) -> None:
        found = hits(client, under="red.webm")
        assert {(hit["start"], hit["end"]) for hit in found} == {(0.0, 2.0), (2.0, 4.0)}
        assert len({hit["id"] for hit in hits(client)}) == 8

    def test_a_frame_from_its_middle_stands_for_it(self, client: TestClient) -> None:
        for hit in hits(client, under="red.webm"):
            said = client.get(f"/api/pictures/{hit['id']}")
            assert said.status_code == 200
            with Image.open(io.BytesIO(said.content)) as picture:
                red, green, _ = picture.getpixel((20, 20))
            assert (red > 200, green > 200) == ((True, False), (False, True))[hit["start"] > 0]

    def test_more_like_a_second_piece(self, client: TestClient) -> None:
        """It is green, as the first piece of another video; the first piece of its own is red."""
        second = next(hit for hit in hits(client, under="red.webm") if hit["start"] > 0)
        best = hits(client, like=second["id"])[0]
        assert (best["name"], best["start"]) == ("green.webm", 0.0)


class TestFile:
    @pytest.fixture(autouse=True)
    def _one(self, root: pathlib.Path, client: TestClient) -> None:
        self.address = f"/api/videos/{hits(client, under='red.webm')[0]['id']}"
        self.content = (root / "clips" / "red.webm").read_bytes()

    def test_all_of_it(self, client: TestClient) -> None:
        said = client.get(self.address)
        assert said.status_code == 200
        assert said.headers["content-type"] == "video/webm"
        assert said.headers["accept-ranges"] == "bytes"
        assert said.content == self.content

    @pytest.mark.parametrize(
        ("asked", "first", "last"),
        [("bytes=0-", 0, None), ("bytes=10-19", 10, 19), ("bytes=-5", -5, None),
         ("bytes=7-999999999", 7, None)],
    )  # fmt: skip
    def test_a_part(self, client: TestClient, asked: str, first: int, last: int | None) -> None:
        said = client.get(self.address, headers={"range": asked})
        wanted = self.content[first:] if last is None else self.content[first : last + 1]
        assert said.status_code == 206
        assert said.content == wanted
        begin = first % len(self.content)
        span = f"bytes {begin}-{begin + len(wanted) - 1}/{len(self.content)}"
        assert said.headers["content-range"] == span

    def test_a_long_part_comes_in_pieces(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(videos, "VIDEO_BYTES", 100)
        joined = b""
        while len(joined) < len(self.content):
            said = client.get(self.address, headers={"range": f"bytes={len(joined)}-"})
            assert said.status_code == 206
            assert 0 < len(said.content) <= 100
            joined += said.content
        assert joined == self.content

    def test_beyond_the_end(self, client: TestClient) -> None:
        said = client.get(self.address, headers={"range": "bytes=99999999-"})
        assert said.status_code == 416
        assert said.headers["content-range"] == f"bytes */{len(self.content)}"

    @pytest.mark.parametrize(
        "asked", ["bytes=5-2", "bytes=-0", "bytes=0-1,5-9", "bytes=a-b", "bytes=-", "x=1-2", "-"]
    )
    def test_odd_ranges_bring_no_failure(self, client: TestClient, asked: str) -> None:
        assert client.get(self.address, headers={"range": asked}).status_code in (200, 416)

    def test_a_part_of_what_it_was_before(self, client: TestClient) -> None:
        """All of it comes, since the rest would not fit to what is there already."""
        etag = client.get(self.address, headers={"range": "bytes=0-1"}).headers["etag"]
        headers = {"range": "bytes=2-5", "if-range": etag}
        assert client.get(self.address, headers=headers).status_code == 206
        headers["if-range"] = '"another"'
        assert client.get(self.address, headers=headers).status_code == 200


def test_a_file_that_is_gone_or_linked_out(tmp_path: pathlib.Path) -> None:
    write_videos(tmp_path / "clips")
    make_index(tmp_path / "clips", tmp_path / "index", seconds=2.0)
    secret = tmp_path / "secret.webm"
    (tmp_path / "clips" / "red.webm").rename(secret)
    (tmp_path / "clips" / "green.webm").unlink()
    (tmp_path / "clips" / "green.webm").symlink_to(secret)
    with client_of(tmp_path / "index") as client:
        for name in ("red", "green"):
            for hit in hits(client, under=f"{name}.webm"):
                for kind in ("videos", "pictures"):
                    said = client.get(f"/api/{kind}/{hit['id']}")
                    assert said.status_code == 404
                    assert "update the index" in said.json()["error"]
        assert client.get("/api/videos/AAAAAAAAAAAA").status_code == 404


def test_a_container_that_no_browser_plays(tmp_path: pathlib.Path) -> None:
    (tmp_path / "clips").mkdir()
    write_film(tmp_path / "clips" / "a.avi", [np.zeros((48, 64, 3), np.uint8)] * 50, codec="mpeg4")
    make_index(tmp_path / "clips", tmp_path / "index", seconds=2.0)
    with client_of(tmp_path / "index") as client:
        said = client.get(f"/api/videos/{hits(client)[0]['id']}")
        described = client.get("/openapi.json").json()["paths"]["/api/videos/{id}"]["get"]
    assert said.headers["content-type"] == "application/octet-stream"
    for status in ("200", "206"):
        assert described["responses"][status]["content"].keys() == {
            "video/*",
            said.headers["content-type"],
        }


def test_pictures_have_no_video(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "pictures" / "a.png")
    make_index(tmp_path / "pictures", tmp_path / "index")
    with client_of(tmp_path / "index") as client:
        (hit,) = hits(client)
        assert (hit["start"], hit["end"]) == (None, None)
        assert client.get(f"/api/videos/{hit['id']}").status_code == 404


def test_a_folder_that_is_gone_is_said(root: pathlib.Path) -> None:
    with (
        pytest.raises(UserError, match="mount it"),
        open_originals({"kind": "videos", "path": str(root / "nowhere"), "seconds": 2}),
    ):
        pass


class TestStill:
    @pytest.mark.parametrize(
        ("name", "codec"),
        [("a.mp4", "mpeg4"), ("a.webm", "libvpx"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4"),
         ("a.ts", "mpeg2video"), ("a.h264", "libx264")],
    )  # fmt: skip
    def test_what_is_on_the_screen(self, tmp_path: pathlib.Path, name: str, codec: str) -> None:
        film = write_film(tmp_path / name, levels(40), codec)
        assert [number_of(still(film, at, 1280)) for at in (0.0, 0.3, 0.82, 1.2)] == [0, 7, 20, 30]
        assert number_of(still(film, 99.0, 1280)) == 39

    def test_a_broken_file(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"no film")
        with pytest.raises(PictureError, match="video_unreadable"):
            still(tmp_path / "a.mp4", 0.0, 100)
