# SPDX-License-Identifier: Apache-2.0
"""Videos in pieces of equal time, and the frames that stand for them."""

import dataclasses
import pathlib

import pytest
from films import levels, number_of, write_film, write_sound, write_trimmed

from cots_jax.data.prepare import video_pieces as module
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.video_pieces import Cut, video_pieces

pytest.importorskip("av", reason="needs the extra cots_jax[video]")

KINDS = {"film.avi": "mpeg4", "film.mp4": "mpeg4", "film.mkv": "mpeg4", "film.webm": "libvpx",
         "film.ts": "mpeg2video"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Seen:
    """A piece by its times and the numbers of its frames."""

    start: float
    end: float
    frames: list[int]


def pieces(path: pathlib.Path, seconds: float, frames: int = 1) -> list[Seen]:
    found = video_pieces(path, Cut(seconds, frames, 256))
    return [Seen(one.start, one.end, [number_of(jpeg) for jpeg in one.jpegs]) for one in found]


def fault_of(path: pathlib.Path) -> str:
    with pytest.raises(PictureError) as fault:
        video_pieces(path, Cut(0.4, 1, 256))
    return str(fault.value)


@pytest.mark.parametrize(("name", "codec"), KINDS.items())
def test_the_middle_of_every_part_whatever_the_container(
    tmp_path: pathlib.Path, name: str, codec: str
) -> None:
    film = write_film(tmp_path / name, levels(40), codec)  # 1.6 seconds
    assert pieces(film, 0.4, 2) == [
        Seen(0.0, 0.4, [2, 7]),
        Seen(0.4, 0.8, [12, 17]),
        Seen(0.8, 1.2, [22, 27]),
        Seen(1.2, 1.6, [32, 37]),
    ]
    assert pieces(film, 8.0) == [Seen(0.0, 1.6, [20])]
    assert pieces(film, 0.6) == [Seen(0.0, 0.533, [6]), Seen(0.533, 1.067, [20]),
                                 Seen(1.067, 1.6, [33])]  # fmt: skip


def test_what_stands_on_the_screen(tmp_path: pathlib.Path) -> None:
    """A frame that is shown for two seconds is what these two seconds look like."""
    film = write_film(tmp_path / "slides.mp4", levels(5), times=[0, 1, 2, 50, 51])
    assert [one.frames for one in pieces(film, 0.5)] == [[2], [2], [2], [2], [4]]


def test_a_trimmed_video_is_as_long_as_what_it_shows(tmp_path: pathlib.Path) -> None:
    film = write_film(tmp_path / "film.mp4", levels(40), "libx264")
    trimmed = write_trimmed(film, tmp_path / "trimmed.mp4", 20)
    assert pieces(trimmed, 0.4) == [Seen(0.0, 0.4, [25]), Seen(0.4, 0.8, [35])]


def test_one_frame(tmp_path: pathlib.Path) -> None:
    film = write_film(tmp_path / "one.mp4", levels(1))
    assert pieces(film, 0.001, 2) == [Seen(0.0, 0.04, [0, 0])]


def test_a_damaged_video_has_the_pieces_that_decode(tmp_path: pathlib.Path) -> None:
    film = write_film(tmp_path / "film.mkv", levels(40))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    found = pieces(cut, 0.4)
    assert 1 <= len(found) <= 3
    whole = levels(40)
    assert all(0 <= frame < len(whole) for one in found for frame in one.frames)
    assert found[0].frames[0] in range(3, 6)


def test_what_is_no_video(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mp4").write_text("no film at all")
    assert fault_of(tmp_path / "empty.mp4") == "video_empty"
    assert fault_of(tmp_path / "words.mp4") == "video_unreadable"
    assert fault_of(tmp_path / "none.mp4") == "video_unreadable"
    assert fault_of(write_sound(tmp_path / "sound.mp4")) == "video_without_pictures"
    film = write_film(tmp_path / "film.mp4", levels(10))
    monkeypatch.setattr(module, "MAX_FRAMES", 5)
    assert fault_of(film) == "video_too_long"
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    assert fault_of(film) == "video_too_large"
