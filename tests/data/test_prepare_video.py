# SPDX-License-Identifier: Apache-2.0
"""One video file: which frames are kept, how they are turned, and what is wrong with the others."""

import hashlib
import io
import pathlib
import shutil
import sys
from unittest import mock

import numpy as np
import pytest
from films import levels, number_of, write_film, write_sound, write_trimmed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from prepare_cases import jpeg

from cots_jax.data.prepare import video
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.video import VideoFile, decoder, video_frames
from cots_jax.errors import UserError

pytest.importorskip("av", reason="needs the extra cots_jax[video]")

FAST_START = {"movflags": "faststart"}  # the index of an mp4 before the frames
KINDS = {
    "film.avi": ("mpeg4", {}),
    "film.mp4": ("mpeg4", {}),
    "fast.mp4": ("mpeg4", FAST_START),
    "film.mkv": ("mpeg4", {}),
    "film.webm": ("libvpx", {}),
    "film.mpg": ("mpeg1video", {}),
    "film.ts": ("mpeg2video", {}),
    "film.mov": ("mjpeg", {}),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, pathlib.Path]:
    """The same forty frames in every container."""
    folder = tmp_path_factory.mktemp("films")
    for name, (codec, options) in KINDS.items():
        pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        write_film(folder / name, levels(40), codec, options=options, pixels=pixels)
    return {name: folder / name for name in KINDS}


def frames_of(path: pathlib.Path, frames: int = 5, longest_side: int = 256) -> list[int]:
    return [number_of(jpeg) for jpeg in video_frames(VideoFile(path, frames), longest_side)]


def fault_of(path: pathlib.Path, frames: int = 5) -> str:
    with pytest.raises(PictureError) as fault:
        video_frames(VideoFile(path, frames), 256)
    return str(fault.value)


def picture_of(path: pathlib.Path, longest_side: int = 256) -> Image.Image:
    (frame,) = video_frames(VideoFile(path, 1), longest_side)
    return Image.open(io.BytesIO(frame))


class TestFrames:
    @pytest.mark.parametrize("name", KINDS)
    def test_the_middle_of_each_segment_whatever_the_container(self, films, name):
        assert frames_of(films[name]) == [4, 12, 20, 28, 36]
        assert frames_of(films[name], 1) == [20]

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_a_short_clip_gives_every_frame_once(self, tmp_path, count):
        path = write_film(tmp_path / "short.mp4", levels(count))
        assert frames_of(path, 24) == list(range(count))

    def test_segments_are_of_frames_and_not_of_seconds(self, tmp_path):
        times = [0, 1, 2, 3, 4, 50, 100, 150, 200, 250]
        path = write_film(tmp_path / "variable.mkv", levels(10), times=times)
        assert frames_of(path) == [1, 3, 5, 7, 9]

    def test_a_container_that_does_not_say_how_many(self, films):
        with decoder().open(str(films["film.mkv"])) as container:
            assert container.streams.video[0].frames == 0
        with decoder().open(str(films["film.avi"])) as container:
            assert container.streams.video[0].frames == 40

    def test_a_wrong_count_is_found_out(self, films):
        with mock.patch.object(video, "_expected", return_value=39):
            assert frames_of(films["film.mkv"]) == [4, 12, 20, 28, 36]

    def test_a_trimmed_clip_is_what_it_shows(self, tmp_path):
        film = write_film(tmp_path / "film.mp4", levels(40), "libx264")
        path = write_trimmed(film, tmp_path / "trimmed.mp4", 20)
        with decoder().open(str(path)) as container:
            assert container.streams.video[0].frames == 40  # from the key frame on
        assert frames_of(path) == [22, 26, 30, 34, 38]

    def test_frames_that_the_camera_dropped_are_no_loss(self, tmp_path):
        times = [*range(10), *range(20, 50)]
        path = write_film(tmp_path / "dropped.avi", levels(40), times=times)
        with decoder().open(str(path)) as container:
            assert container.streams.video[0].frames == 50
        assert frames_of(path) == [4, 12, 20, 28, 36]
        assert fault_of(cut(path, tmp_path / "cut.avi", 0.6)) == "video_damaged"

    def test_every_time_the_same_bytes(self, films):
        once, again = (video_frames(VideoFile(films["film.mp4"], 8), 32) for _ in range(2))
        assert once == again

    def test_frames_are_shrunk_and_never_enlarged(self, films):
        assert picture_of(films["film.mp4"]).size == (64, 48)
        assert picture_of(films["film.mp4"], 32).size == (32, 24)
        assert picture_of(films["film.mp4"]).mode == "RGB"

    def test_colours_are_right(self, tmp_path):
        red = np.zeros((48, 64, 3), np.uint8) + np.array([200, 30, 60], np.uint8)
        path = write_film(tmp_path / "red.mp4", [red] * 3)
        found = np.asarray(picture_of(path)).mean(axis=(0, 1))
        assert np.abs(found - [200, 30, 60]).max() < 8

    def test_sound_beside_the_pictures_does_no_harm(self, tmp_path):
        path = tmp_path / "both.mkv"
        with decoder().open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.bit_rate = 4_000_000
            sound = container.add_stream("pcm_s16le", rate=8000)
            sound.layout = "mono"
            for pixels in levels(10):
                frame = decoder().VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            samples = np.zeros((1, 32_000), np.int16)  # four seconds, the pictures 0.4
            tone = decoder().AudioFrame.from_ndarray(samples, "s16", "mono")
            tone.rate = 8000
            container.mux(sound.encode(tone))
            container.mux(sound.encode(None))
        assert frames_of(path) == [1, 3, 5, 7, 9]


class TestUpright:
    @pytest.mark.parametrize(
        ("rotation", "size", "centre"),
        [
            (0, (64, 48), (8, 8)),
            (90, (48, 64), (8, 56)),  # counter-clockwise
            (-90, (48, 64), (40, 8)),  # as phones held upright write it
            (180, (64, 48), (56, 40)),
        ],
    )
    def test_what_a_phone_has_turned_is_turned_back(self, tmp_path, rotation, size, centre):
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:16, :16] = 255  # above, on the left
        path = write_film(tmp_path / "turned.mp4", [pixels] * 3, rotation=rotation)
        found = picture_of(path)
        assert found.size == size
        down, right = np.nonzero(np.asarray(found.convert("L")) > 128)
        assert np.hypot(right.mean() - centre[0], down.mean() - centre[1]) < 2

    def test_pixels_become_square(self, tmp_path):
        wide = write_film(tmp_path / "wide.mkv", levels(3), aspect="2/1")
        tall = write_film(tmp_path / "tall.mkv", levels(3), aspect="1/2")
        absurd = write_film(tmp_path / "absurd.mkv", levels(3), aspect="64/1")
        assert picture_of(wide).size == (64, 24)
        assert picture_of(tall).size == (32, 48)
        assert picture_of(absurd).size == (64, 48)

    def test_one_pixel(self, tmp_path):
        one = [np.full((1, 1, 3), 90, np.uint8)] * 3
        path = write_film(tmp_path / "one.mkv", one, "ffv1", pixels="bgr0")
        assert picture_of(path).size == (1, 1)


def cut(path: pathlib.Path, to: pathlib.Path, part: float) -> pathlib.Path:
    data = path.read_bytes()
    to.write_bytes(data[: int(len(data) * part)])
    return to


NOTHING = ("video_no_frames", "video_without_pictures")  # what the start of a file may look like


class TestDamage:
    @pytest.mark.parametrize("name", [name for name in KINDS if name != "film.ts"])
    @pytest.mark.parametrize("part", [0.05, 0.3, 0.6])
    def test_a_file_that_was_cut_is_refused(self, films, tmp_path, name, part):
        found = fault_of(cut(films[name], tmp_path / name, part))
        assert found in ("video_unreadable", "video_damaged", *NOTHING)

    def test_a_cut_transport_stream_is_a_shorter_one(self, films, tmp_path):
        found = frames_of(cut(films["film.ts"], tmp_path / "cut.ts", 0.6), 3)
        assert len(found) == 3
        assert max(found) < 24

    @pytest.mark.parametrize("name", ["film.mkv", "film.avi"])
    def test_up_to_a_twentieth_of_the_frames_may_be_lost(self, films, name):
        whole = video.whole_frames

        def losing(numbers):
            def decoded(av, packet):
                kept = [frame for frame in whole(av, packet) if number_in(frame) not in numbers]
                return iter(kept)

            return mock.patch.object(video, "whole_frames", decoded)

        def number_in(frame):
            return round(frame.time * 25)

        with losing({3, 30}):
            found = frames_of(films[name], 38)
            assert found == [i for i in range(40) if i not in (3, 30)]
        with losing({3, 7, 30}):
            assert fault_of(films[name]) == "video_damaged"

    def test_nothing_in_it(self, tmp_path):
        (tmp_path / "empty.mp4").touch()
        assert fault_of(tmp_path / "empty.mp4") == "video_empty"

    @pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
    def test_a_hole_in_the_middle_is_no_dropped_frame(self, films, tmp_path, byte):
        data = films["film.avi"].read_bytes()
        first, end = (len(data) * part // 10 for part in (3, 6))
        (tmp_path / "hole.avi").write_bytes(data[:first] + byte * (end - first) + data[end:])
        assert fault_of(tmp_path / "hole.avi") == "video_damaged"

    def test_sound_alone(self, tmp_path):
        assert fault_of(write_sound(tmp_path / "a.mkv")) == "video_without_pictures"
        with_cover = tmp_path / "cover.mkv"
        shutil.copy(tmp_path / "a.mkv", with_cover)
        assert fault_of(with_cover) == "video_without_pictures"

    def test_a_film_without_a_frame(self, films, tmp_path):
        with mock.patch.object(video, "whole_frames", return_value=iter(())):
            assert fault_of(films["film.mkv"]) == "video_no_frames"

    @pytest.mark.parametrize(
        "content",
        [
            b"no film at all",
            b"\x00" * 5000,
            b"<!DOCTYPE html><html>404</html>" * 20,
            jpeg(0),
            b"RIFF\xff\xff\xff\xffAVI LIST",
            b"\x1aE\xdf\xa3" + b"\xff" * 200,
        ],
        ids=["text", "zeros", "page", "picture", "head of an avi", "head of a matroska"],
    )
    def test_what_is_called_a_film_and_is_none(self, tmp_path, content):
        (tmp_path / "x.mp4").write_bytes(content)
        assert fault_of(tmp_path / "x.mp4") in ("video_unreadable", "video_without_pictures")

    @pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
    def test_a_playlist_opens_no_other_file(self, films, tmp_path, name):
        target = films["film.ts"]
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:9,", str(target), "#EXT-X-ENDLIST"]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        assert fault_of(tmp_path / name) == "video_unreadable"
        (tmp_path / "c.mp4").write_text(f"ffconcat version 1.0\nfile '{target}'\n")
        assert fault_of(tmp_path / "c.mp4") == "video_unreadable"

    def test_a_misnamed_film_is_taken_for_what_it_is(self, films, tmp_path):
        shutil.copy(films["film.avi"], tmp_path / "film.txt")
        assert frames_of(tmp_path / "film.txt") == [4, 12, 20, 28, 36]

    def test_bounds(self, films):
        with mock.patch.object(video, "MAX_PIXELS", 64 * 48 - 1):
            assert fault_of(films["film.avi"]) == "video_too_large"
        with mock.patch.object(video, "MAX_FRAMES", 39):
            assert fault_of(films["film.avi"]) == "video_too_long"

    def test_a_file_that_is_not_there(self, tmp_path):
        assert fault_of(tmp_path / "none.mp4") == "video_unreadable"
        with pytest.raises(PictureError, match="video_unreadable"):
            VideoFile(tmp_path / "none.mp4", 1).digest()

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        name=st.sampled_from(["fast.mp4", "film.avi", "film.mkv", "film.webm", "film.ts"]),
        places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30),
        seed=st.integers(0, 2**31),
    )
    def test_any_damage_gives_frames_or_a_reason(self, films, tmp_path, name, places, seed):
        data = bytearray(films[name].read_bytes())
        rng = np.random.default_rng(seed)
        for place in places:
            data[int(place * len(data))] = rng.integers(256)
        path = tmp_path / name
        path.write_bytes(bytes(data))
        try:
            found = video_frames(VideoFile(path, 4), 32)
        except PictureError as fault:
            assert str(fault).startswith("video_")
        else:
            assert 1 <= len(found) <= 4
            assert found == video_frames(VideoFile(path, 4), 32)

    def test_nothing_is_printed(self, films, tmp_path, capfd):
        fault_of(cut(films["fast.mp4"], tmp_path / "cut.mp4", 0.3))
        frames_of(films["film.mpg"])
        assert capfd.readouterr() == ("", "")


def test_without_the_decoder_the_door_says_what_to_install():
    with (
        mock.patch.dict(sys.modules, {"av": None}),
        pytest.raises(UserError, match=r"pip install 'cots_jax\[video\]'"),
    ):
        decoder.__wrapped__()


def test_real_clips(shared_data):
    clips = sorted((shared_data / "msvd_clips").glob("*.avi"))
    if not clips:
        pytest.skip("no clips of MSVD")
    assert len(clips) == 5
    for clip in clips:
        frames = video_frames(VideoFile(clip, 6), 128)
        pictures = [Image.open(io.BytesIO(frame)) for frame in frames]
        assert len({hashlib.sha256(frame).digest() for frame in frames}) == 6
        assert {max(picture.size) for picture in pictures} == {128}
        assert all(np.asarray(picture).std() > 10 for picture in pictures)
