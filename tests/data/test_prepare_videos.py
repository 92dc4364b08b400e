# SPDX-License-Identifier: Apache-2.0
"""A table and a folder of videos become records; pictures are what they were."""

import io
import json
import os
import pathlib
import shutil

import msgpack
import numpy as np
import pytest
from doors import run_prepare
from films import levels, number_of, write_film
from PIL import Image
from prepare_cases import ids, jpeg, reasons, records, rejects

from cots_jax.data.prepare import kept, shards, videos
from cots_jax.data.prepare.inspection import inspect
from cots_jax.data.prepare.merge import merge_parts
from cots_jax.data.prepare.tasks import Task
from cots_jax.data.prepare.twins import Duplicates
from cots_jax.data.prepare.videos import VideosOptions, prepare_videos
from cots_jax.data.prepare.write import Plan
from cots_jax.data.records import Record, open_split, pack_record, read_facts, unpack_record
from cots_jax.errors import UserError

pytest.importorskip("av", reason="needs the extra cots_jax[video]")

CLIPS = {"a.mp4": 12, "b.avi": 20, "deep/c.mkv": 3, "d.mp4": 30, "e.mp4": 9}  # frames each


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> pathlib.Path:
    """Five films of different length, of which each begins with another grey."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "deep").mkdir()
    for start, (name, count) in enumerate(CLIPS.items()):
        write_film(folder / name, levels(40)[start : start + count])
    return folder


def source(root: pathlib.Path, rows: list[dict], clips: pathlib.Path, **more) -> VideosOptions:
    root.mkdir(exist_ok=True)
    table = root / "captions.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return VideosOptions(captions=table, videos=clips, **{"held_out": 0.0, "frames": 4, **more})


def rows_of(*names: str) -> list[dict]:
    return [{"video": name, "caption": f"about {name}"} for name in names]


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_record_has_the_frames_and_the_middle_one_as_its_picture(tmp_path, clips):
    prepared = prepare_videos(tmp_path / "out", source(tmp_path / "in", rows_of(*CLIPS), clips))
    a, b, c, d, e = records(tmp_path / "out", "train")
    assert [len(r.frames) for r in (a, b, c, d, e)] == [4, 4, 3, 4, 4]
    assert [number_of(frame) for frame in a.frames] == [1, 4, 7, 10]
    assert [number_of(frame) for frame in c.frames] == [2, 3, 4]
    for record in (a, b, c, d, e):
        assert record.image == record.frames[len(record.frames) // 2]
    assert (a.id, a.captions, a.group_id) == ("a.mp4", ("about a.mp4",), 0)
    assert prepared.facts["schema_version"] == 2
    assert prepared.facts["frames"] == 4
    assert prepared.summary().endswith("made: train 5 videos / 5 pairs; nothing was dropped")
    with open_split(tmp_path / "out", "train") as split:
        assert split.frames == 4


def test_a_pictures_record_is_what_it_was_bit_by_bit(tmp_path):
    texts = ("one",)
    record = Record("id", b"jpeg", texts, texts, "g", 3, "t:1")
    fields = {
        "id": "id",
        "image": b"jpeg",
        "captions": ["one"],
        "raw_captions": ["one"],
        "group": "g",
        "group_id": 3,
        "source_row": "t:1",
    }
    assert pack_record(record) == msgpack.packb(fields, use_bin_type=True)
    assert unpack_record(pack_record(record)) == record
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x.jpg").write_bytes(jpeg(0))
    (tmp_path / "t.csv").write_text("image,caption\nx.jpg,a picture\n")
    flags = ("--captions=t.csv", "--images=p", "--out=out")
    assert run_prepare(tmp_path, "pairs", *flags).status == 0
    facts = read_facts(tmp_path / "out")
    assert facts["schema_version"] == 1
    assert "frames" not in facts


def test_names_are_found_without_their_ending_and_below_folders(tmp_path, clips):
    rows = rows_of("a", "./b.avi", "c", "deep/c", "clips/d.mp4")
    prepare_videos(tmp_path / "out", source(tmp_path / "in", rows, clips))
    assert ids(tmp_path / "out") == {"train": ["a", "./b.avi", "c", "clips/d.mp4"]}
    assert records(tmp_path / "out", "train")[2].captions == ("about c", "about deep/c")


def test_everything_unusable_is_listed(tmp_path, clips):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    shutil.copy(clips / "d.mp4", tmp_path / "outside.mp4")
    (folder / "out.mp4").symlink_to(tmp_path / "outside.mp4")
    (folder / "dead.mp4").symlink_to(folder / "gone.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("<html>404</html>")
    (folder / "cut.mp4").write_bytes((clips / "d.mp4").read_bytes()[:900])
    os.mkfifo(folder / "pipe.mp4")
    shutil.copy(clips / "e.mp4", folder / "twice.mp4")
    shutil.copy(clips / "b.avi", folder / "twice.avi")
    names = ["a", "none", "../outside.mp4", "/etc/passwd", "out", "dead", "loop", "empty", "text"]
    names += ["cut", "pipe", "twice"]
    rows = [*rows_of(*names), {"caption": "of nothing"}, {"video": "b", "caption": " "}]
    rows += [{"video": "d", "caption": "x", "split": "train"}]
    for row in rows[:-1]:
        row["split"] = "train"
    rows += [{"video": "d", "caption": "y", "split": "test"}]
    prepare_videos(tmp_path / "made", source(tmp_path / "in", rows, folder))
    assert sorted(reasons(tmp_path / "made")) == sorted(
        [
            ("video_missing", "none"),
            ("video_name_unsafe", "../outside.mp4"),
            ("video_name_unsafe", "/etc/passwd"),
            ("video_outside_folder", "out"),
            ("video_missing", "dead"),
            ("video_missing", "loop"),
            ("video_empty", "empty"),
            ("video_unreadable", "text"),
            ("video_unreadable", "cut"),
            ("video_not_regular", "pipe"),
            ("video_name_ambiguous", "twice"),
            ("no_image_name", ""),
            ("caption_empty", "b"),
            ("video_in_two_splits", "d"),
        ]
    )
    assert ids(tmp_path / "made") == {"train": ["a", "d"]}


@pytest.mark.parametrize("workers", [1, 7])
def test_the_same_folder_whatever_the_number_of_threads(tmp_path, clips, monkeypatch, workers):
    monkeypatch.setattr(os, "cpu_count", lambda: workers)
    options = source(tmp_path / "in", rows_of(*CLIPS), clips, name="n")
    prepare_videos(tmp_path / "out", options)
    monkeypatch.undo()
    prepare_videos(tmp_path / "other", options)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "other")


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_after_its_finished_shards(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 8000)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    options = source(tmp_path / "in", rows_of(*CLIPS), clips, name="n")
    prepare_videos(tmp_path / "whole", options)
    decode, decoded = kept.video_frames, []

    def dying(video, longest_side):
        decoded.append(video.path.name)
        if decoded[-1] == "e.mp4":
            raise Killed
        return decode(video, longest_side)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(kept, "video_frames", dying)
        prepare_videos(tmp_path / "out", options)
    before = len(decoded)
    with monkeypatch.context() as patch:
        patch.setattr(
            kept, "video_frames", lambda v, s: decoded.append(v.path.name) or decode(v, s)
        )
        prepare_videos(tmp_path / "out", options)
    assert 1 <= len(decoded) - before < len(CLIPS)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_parts_are_joined_to_what_one_run_makes(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(videos, "UNIT", 2)
    options = source(tmp_path / "in", rows_of(*CLIPS), clips, name="n")
    whole = prepare_videos(tmp_path / "whole", options)
    for number in (1, 2):
        task = Task(number, 2)
        prepare_videos(
            tmp_path / "out", source(tmp_path / "in", rows_of(*CLIPS), clips, name="n", task=task)
        )
    assert merge_parts(tmp_path / "out").facts == whole.facts


def test_copies_share_a_group_or_go(tmp_path, clips):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    shutil.copy(clips / "a.mp4", folder / "z.mp4")
    options = source(tmp_path / "in", rows_of("a", "b", "z"), folder)
    prepare_videos(tmp_path / "kept", options)
    assert [r.group for r in records(tmp_path / "kept", "train")] == ["a", "b", "a"]
    dropping = source(tmp_path / "in", rows_of("a", "z"), folder, duplicates=Duplicates.DROP)
    prepare_videos(tmp_path / "dropped", dropping)
    assert [line["reason"] for line in rejects(tmp_path / "dropped")] == ["picture_duplicate"]


def test_a_folder_of_videos_can_be_looked_at(tmp_path, clips):
    prepare_videos(tmp_path / "out", source(tmp_path / "in", rows_of(*CLIPS), clips))
    found = inspect(None, tmp_path / "out")
    assert found.facts["splits"]["train"]["frames"] == {
        "least": 3, "median": 4, "p95": 4, "most": 4, "mean": 3.8,
    }  # fmt: skip
    assert "  frames: 3 to 4, median 4, 95 % up to 4" in found.summary()
    assert "5 videos" in found.summary()
    assert "3 frames" in (tmp_path / "out" / "contact_sheet.html").read_text()


def test_another_decoder_begins_a_killed_run_again():
    plans = [Plan("n", "videos", "", 8, {}, frames=4, decoder=d) for d in ("", "av 1", "av 2")]
    assert len({plan.marker() for plan in plans}) == 3
    assert "video" not in json.loads(Plan("n", "pairs", "", 8, {}).marker())


def test_other_frames_are_other_arguments(tmp_path, clips):
    prepare_videos(tmp_path / "out", source(tmp_path / "in", rows_of("a"), clips))
    with pytest.raises(UserError, match=r"prepared with other arguments \(frames 4, now 8\)"):
        prepare_videos(tmp_path / "out", source(tmp_path / "in", rows_of("a"), clips, frames=8))


@pytest.mark.parametrize("frames", ["0", "2000", "-1"])
def test_a_number_of_frames_out_of_range_is_refused(tmp_path, clips, frames):
    (tmp_path / "t.csv").write_text("video,caption\na,x\n")
    flags = ("--captions=t.csv", f"--videos={clips}", f"--frames={frames}", "--out=o")
    said = run_prepare(tmp_path, "videos", *flags)
    assert said.status == 1
    assert "take 1 to 1024 frames" in said.line


def test_the_door_names_what_is_wrong(tmp_path, clips):
    (tmp_path / "t.csv").write_text("clipname,caption\na,x\n")
    said = run_prepare(tmp_path, "videos", "--captions=t.csv", f"--videos={clips}", "--out=o")
    assert "no column named video" in said.line
    assert said.line.endswith("name it with --video_column")
    flags = ("--captions=t.csv", f"--videos={clips}", "--out=o", "--video_column=clipname")
    assert run_prepare(tmp_path, "videos", *flags).status == 0
    said = run_prepare(tmp_path, "videos", "--captions=t.csv", "--videos=t.csv", "--out=p")
    assert "--videos=t.csv is no folder" in said.line


def test_frames_are_at_most_as_large_as_asked_for(tmp_path, clips):
    options = source(tmp_path / "in", rows_of("a"), clips, longest_side=32)
    prepare_videos(tmp_path / "out", options)
    (record,) = records(tmp_path / "out", "train")
    for frame in (record.image, *record.frames):
        assert np.asarray(Image.open(io.BytesIO(frame))).shape == (24, 32, 3)
