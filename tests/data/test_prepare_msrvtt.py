# SPDX-License-Identifier: Apache-2.0
"""MSR-VTT's annotation and lists become the splits that its protocols are evaluated on."""

import collections
import contextlib
import json
import pathlib
import zipfile

import numpy as np
import pytest
from doors import run_prepare
from films import levels, write_film
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msrvtt_like import Clip, annotation, write_annotation, write_names, write_sentences
from prepare_cases import ids, reasons, records

from cots_jax.data.prepare.msrvtt import MsrvttOptions, msrvtt_rows, prepare_msrvtt
from cots_jax.data.prepare.msrvtt_files import read_annotation, read_lists
from cots_jax.data.prepare.samples import BadRow
from cots_jax.errors import UserError
from cots_jax.retrieval.named import folds_of

pytest.importorskip("av", reason="needs the extra cots_jax[video]")

KNOWN = [
    Clip("video0", "train", ("a", "b", "b")),
    Clip("video1", "train", ("c", "d")),
    Clip("video6513", "validate", ("e",)),
]
TEST = [Clip("video7010", "test", ("f", "g  g")), Clip("video7011", "test", ("h", "i"))]


@pytest.fixture
def world(tmp_path) -> pathlib.Path:
    write_annotation(tmp_path / "known.zip", KNOWN)
    write_annotation(tmp_path / "test.json", TEST)
    write_names(tmp_path / "9k.csv", ["video0", "video6513", "video7011"])
    write_sentences(tmp_path / "1ka.csv", {"video7010": "g g"})
    (tmp_path / "videos" / "TestVideo").mkdir(parents=True)
    for number, clip in enumerate([*KNOWN, *TEST]):
        folder = tmp_path / "videos" / ("TestVideo" if clip.split == "test" else "")
        write_film(folder / f"{clip.id}.mp4", levels(20)[number : number + 6])
    return tmp_path


def prepare(world: pathlib.Path, *lists: str, **more):
    files = tuple(world / name for name in ("known.zip", "test.json"))
    chosen = tuple(world / name for name in lists)
    options = MsrvttOptions(annotation=files, videos=world / "videos", list=chosen, **more)
    return prepare_msrvtt(world / "out", options)


def test_without_lists_the_annotations_splits_with_all_sentences(world):
    prepare(world, frames=3)
    assert ids(world / "out") == {
        "test": ["video7010", "video7011"],
        "train": ["video0", "video1"],
        "val": ["video6513"],
    }
    first, _ = records(world / "out", "train")
    assert first.captions == ("a", "b", "b")  # the published protocol counts it twice
    assert records(world / "out", "test")[0].raw_captions == ("f", "g  g")
    assert len(first.frames) == 3
    assert reasons(world / "out") == []


def test_with_lists_what_they_name_and_the_sentence_alone(world):
    prepared = prepare(world, "9k.csv", "1ka.csv")
    assert ids(world / "out") == {
        "test_1k_a": ["video7010"],
        "train": ["video0", "video7011"],
        "val": ["video6513"],
    }
    (tested,) = records(world / "out", "test_1k_a")
    assert tested.captions == ("g g",)
    assert tested.source_row == "1ka.csv:2"
    assert prepared.facts["drops"] == {"captions_not_listed": 1, "video_not_listed": 1}
    assert sorted(reasons(world / "out")) == [
        ("captions_not_listed", "video7010"),
        ("video_not_listed", "video1"),
    ]


def test_a_test_list_alone_decodes_nothing_else(world):
    prepare(world, "1ka.csv")
    assert ids(world / "out") == {"test_1k_a": ["video7010"]}


def test_clips_that_are_not_there_cost_themselves(world):
    (world / "videos" / "video1.mp4").unlink()
    (world / "videos" / "TestVideo" / "video7010.mp4").write_bytes(b"no film")
    prepare(world)
    assert reasons(world / "out") == [
        ("video_missing", "video1"),
        ("video_unreadable", "video7010"),
    ]


def test_every_fault_of_an_annotation_is_listed(tmp_path):
    found = annotation(KNOWN)
    found["videos"] += [{"video_id": 7}, "x", {"video_id": "video0", "split": "test"}]
    found["videos"] += [{"video_id": "mute", "split": "train"}, {"video_id": "nowhere"}]
    found["sentences"] += [{"caption": "x"}, 3, {"caption": "x", "video_id": "none"}]
    found["sentences"] += [{"caption": None, "video_id": "video0"}]
    found["sentences"] += [{"caption": "x", "video_id": "nowhere"}]
    (tmp_path / "a.json").write_text(json.dumps(found))
    rows = list(msrvtt_rows([tmp_path / "a.json"], []))
    bad = [(row.reason, row.image) for row in rows if isinstance(row, BadRow)]
    assert bad == [
        ("row_unreadable", ""),
        ("row_unreadable", ""),
        ("video_id_repeated", "video0"),
        ("row_unreadable", ""),
        ("row_unreadable", ""),
        ("video_id_unknown", "none"),
        ("caption_no_text", "video0"),
        ("no_caption", "mute"),
        ("bad_split_name", "nowhere"),
    ]
    good = [row for row in rows if not isinstance(row, BadRow)]
    assert [(row.image, row.split) for row in good] == [
        ("video0", "train"),
        ("video1", "train"),
        ("video6513", "val"),
    ]


def test_every_fault_of_a_list_is_listed(tmp_path):
    (tmp_path / "l.csv").write_text("key,video_id\n1,video0\n2\n3,\n4,video0x\n5,6,7\n")
    write_annotation(tmp_path / "a.json", KNOWN)
    rows = list(msrvtt_rows([tmp_path / "a.json"], [tmp_path / "l.csv"]))
    found = [(row.reason, row.source_row) for row in rows if isinstance(row, BadRow)]
    assert found == [
        ("row_unreadable", "l.csv:3"),
        ("row_unreadable", "l.csv:4"),
        ("row_unreadable", "l.csv:6"),
        ("video_id_unknown", "l.csv:5"),
        ("video_not_listed", "a.json:video 2"),
        ("video_not_listed", "a.json:video 3"),
    ]


def test_lists_that_overlap_are_refused(tmp_path):
    names = write_names(tmp_path / "7k.csv", ["video0", "video1"])
    more = write_names(tmp_path / "9k.csv", ["video2", "video1"])
    with pytest.raises(UserError, match=r"video1 stands in 9k\.csv:3 and in 7k\.csv:3"):
        read_lists([names, more])
    one = write_sentences(tmp_path / "a.csv", {"video3": "x"})
    two = write_sentences(tmp_path / "b.csv", {"video4": "x"})
    with pytest.raises(UserError, match=r"a\.csv and b\.csv both have sentences"):
        read_lists([one, two])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no whole JSON file"),
        (b"{", "no whole JSON file"),
        (b"[]", 'no list "videos"'),
        (b'{"videos": [], "sentences": {}}', 'no list "sentences"'),
        (b"[" * 100_000, "no whole JSON file"),
        (b"PK\x03\x04 not", "no whole JSON file"),
    ],
)
def test_a_file_that_is_no_annotation_is_one_line(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_annotation(tmp_path / "a.json")


def test_a_zip_must_hold_one_annotation(tmp_path):
    for count in (0, 2):
        with zipfile.ZipFile(tmp_path / f"{count}.zip", "w") as packed:
            packed.writestr("readme.txt", "x")
            for number in range(count):
                packed.writestr(f"{number}.json", "{}")
        with pytest.raises(UserError, match=f"{count} JSON files are in it"):
            read_annotation(tmp_path / f"{count}.zip")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.floats(0, 1))
def test_any_damage_of_a_zip_is_one_line_or_the_same_lists(tmp_path, place, value, cut):
    whole = write_annotation(tmp_path / "a.zip", KNOWN).read_bytes()
    data = bytearray(whole[: int(cut * len(whole)) + 1])
    data[int(place * len(data))] = value
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with contextlib.suppress(UserError):
        assert len(read_annotation(tmp_path / "a.zip")["videos"]) == len(KNOWN)


def test_the_door_says_what_is_missing(world):
    flags = ("--videos=videos", "--out=o")
    said = run_prepare(world, "msrvtt", "--annotation=none.json", *flags)
    assert said.line == "prepare: --annotation=none.json does not exist"
    said = run_prepare(world, "msrvtt", "--annotation=test.json", "--list=x.csv", *flags)
    assert said.line == "prepare: --list=x.csv does not exist"
    said = run_prepare(world, "msrvtt", "--annotation=test.json", "--list=test.json", *flags)
    assert "--list=test.json has no column video_id" in said.line
    said = run_prepare(world, "msrvtt", "--annotation=", *flags)
    assert "--annotation is empty" in said.line
    said = run_prepare(world, "msrvtt", "--annotation=test.json,test.json", *flags)
    assert "names a file twice" in said.line


@pytest.fixture
def files(shared_data) -> pathlib.Path:
    if not (shared_data / "msrvtt").is_dir():
        pytest.skip("no annotation of MSR-VTT")
    return shared_data / "msrvtt"


class TestTheOriginal:
    """What the real annotation and lists give, without a video."""

    def rows(self, files, *lists):
        both = [files / "train_val_annotation.zip", files / "test_videodatainfo.json.zip"]
        return list(msrvtt_rows(both, [files / name for name in lists]))

    def splits(self, rows) -> dict[tuple[str | None, int], int]:
        good = [row for row in rows if not isinstance(row, BadRow)]
        return dict(collections.Counter((row.split, len(row.captions)) for row in good))

    def test_its_own_splits_are_the_full_protocol(self, files):
        rows = self.rows(files)
        assert self.splits(rows) == {("train", 20): 6513, ("val", 20): 497, ("test", 20): 2990}
        tested = [row for row in rows if row.split == "test"]
        groups = np.arange(len(tested), dtype=np.int32)
        texts = np.repeat(groups, [len(row.captions) for row in tested])
        (fold,) = folds_of("msrvtt_full", groups, texts)
        assert (len(fold.images), len(fold.texts)) == (2990, 59_800)

    @pytest.mark.parametrize(("name", "train"), [("7k", 6513), ("9k", 8503)])
    def test_the_lists_are_the_1k_a_protocol_and_what_is_trained_on(self, files, name, train):
        rows = self.rows(files, f"MSRVTT_train.{name}.csv", "MSRVTT_JSFUSION_test.csv")
        splits = {("train", 20): train, ("val", 20): 497, ("test_1k_a", 1): 1000}
        assert self.splits(rows) == splits
        bad = collections.Counter(row.reason for row in rows if isinstance(row, BadRow))
        assert bad["captions_not_listed"] == 1000
        assert bad["video_not_listed"] == 10_000 - train - 497 - 1000
        groups = np.arange(1000, dtype=np.int32)
        (fold,) = folds_of("msrvtt_1k_a", groups, groups)
        assert len(fold.texts) == 1000
