# SPDX-License-Identifier: Apache-2.0
"""MSR-VTT: its original annotation and the lists by which text-to-video retrieval is reported.

Xu, Mei, Yao, Rui, "MSR-VTT: A large video description dataset for bridging video and language"
(CVPR 2016): 10,000 clips with 20 sentences each. The lists (R): 7k (train and validation of the
annotation) or 9k clips to train on, and JSFUSION's 1,000 test clips with one sentence each (1k-A).
"""

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cots_jax.data.prepare.captions import Repeats
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.msrvtt_files import Listed, read_annotation, read_lists
from cots_jax.data.prepare.samples import BadRow
from cots_jax.data.prepare.settings import Settings, require_file
from cots_jax.data.prepare.shards import file_digest
from cots_jax.data.prepare.sources import Found, Row, row_of
from cots_jax.data.prepare.splits import HELD_OUT, TRAIN
from cots_jax.data.prepare.tables import table_units
from cots_jax.data.prepare.video import decoder_version
from cots_jax.data.prepare.video_files import Videos, videos_arguments
from cots_jax.data.prepare.videos import FRAMES, UNIT
from cots_jax.data.prepare.write import Prepared
from cots_jax.errors import UserError

TEST_1K_A = "test_1k_a"
SPLITS = {"validate": HELD_OUT}  # the annotation's own words


@dataclass(frozen=True)
class MsrvttOptions(Settings):
    """What `prepare msrvtt` is asked for."""

    annotation: tuple[pathlib.Path, ...]  # videodatainfo.json files, plain or zipped
    videos: pathlib.Path
    list: tuple[pathlib.Path, ...] = ()
    frames: int = FRAMES


def prepare_msrvtt(out: pathlib.Path, options: MsrvttOptions) -> Prepared:
    """Writes the folder of MSR-VTT.

    Without lists by the annotation's splits: `train`, `val` and `test`, all sentences. With lists
    of what they name only: the clips of a list with sentences are `test_1k_a`, each with its one
    sentence; those of a list of names are trained on, `val` where the annotation holds them for
    validation and else `train`, so that a checkpoint can be chosen on `val`, and the published 7k
    or 9k is both. A sentence that its clip has twice is kept, as the published protocols count it.
    """
    options.check()
    for flag, paths in (("annotation", options.annotation), ("list", options.list)):
        for path in paths:
            require_file(path, flag, "a file of MSR-VTT")
        if len({path.name for path in paths}) < len(paths):
            raise UserError(f"--{flag}={','.join(map(str, paths))} names a file twice")
    if not options.annotation:
        raise UserError("--annotation is empty: give train_val_videodatainfo.json or its zip")
    arguments = {
        "annotation": [path.name for path in options.annotation],
        "annotation_sha256": [file_digest(path) for path in options.annotation],
        "list": [path.name for path in options.list],
        "list_sha256": [file_digest(path) for path in options.list],
        **videos_arguments(options.videos, options.frames, out),
    }
    source = Source(
        "msrvtt",
        arguments,
        lambda: table_units(
            msrvtt_rows(options.annotation, options.list),
            Videos(options.videos, options.frames),
            options.held_out,
            Repeats.KEEP,
            UNIT,
        ),
        ",".join(map(str, options.annotation)),
        frames=options.frames,
        decoder=decoder_version(),
    )
    return prepare_source(out, source, options)


@dataclass
class _Clip:
    """A clip of the annotation with its sentences in the order of the file."""

    source_row: str
    split: Any
    sentences: list[str] = field(default_factory=list)


def msrvtt_rows(
    annotation: Sequence[pathlib.Path], lists: Sequence[pathlib.Path]
) -> Iterator[Row | BadRow]:
    """One row a clip, `FILE:video NUMBER` counted from 1; without lists, all clips."""
    clips: dict[str, _Clip] = {}
    for path in annotation:
        yield from _read_clips(path, clips)
    if not lists:
        for id, clip in clips.items():
            yield _row(id, clip.sentences, SPLITS.get(clip.split, clip.split), clip.source_row)
        return
    listed = read_lists(lists)
    yield from listed.rejects
    for id, place in listed.clips.items():
        if id in clips:
            yield from _listed_rows(id, clips[id], place)
        else:
            yield BadRow("video_id_unknown", place.source_row, id)
    for id, clip in clips.items():
        if id not in listed.clips:
            left = (("captions", str(len(clip.sentences))),)
            yield BadRow("video_not_listed", clip.source_row, id, left)


def _listed_rows(id: str, clip: _Clip, place: Listed) -> Iterator[Row | BadRow]:
    if place.sentence is None:
        split = HELD_OUT if clip.split == "validate" else TRAIN
        yield _row(id, clip.sentences, split, clip.source_row)
        return
    yield _row(id, [place.sentence], TEST_1K_A, place.source_row)
    others = (("captions", str(len(clip.sentences))),)
    yield BadRow("captions_not_listed", clip.source_row, id, others)


def _row(id: str, sentences: list[str], split: Any, source_row: str) -> Row | BadRow:
    values = {"video": id, "captions": sentences, "split": split}
    return row_of(values, Found("video", "captions", has_splits=True), source_row)


def _read_clips(path: pathlib.Path, clips: dict[str, _Clip]) -> Iterator[BadRow]:
    """Adds the clips of a file; yields what of it cannot be used."""
    found = read_annotation(path)
    for number, entry in enumerate(found["videos"], 1):
        source_row = f"{path.name}:video {number}"
        id = entry.get("video_id") if isinstance(entry, dict) else None
        if not isinstance(id, str) or not id.strip():
            yield BadRow("row_unreadable", source_row)
        elif id in clips:
            yield BadRow("video_id_repeated", source_row, id)
        else:
            clips[id] = _Clip(source_row, entry.get("split"))
    for number, entry in enumerate(found["sentences"], 1):
        source_row = f"{path.name}:sentence {number}"
        id = entry.get("video_id") if isinstance(entry, dict) else None
        if not isinstance(id, str):
            yield BadRow("row_unreadable", source_row)
        elif id not in clips:
            yield BadRow("video_id_unknown", source_row, id)
        elif not isinstance(entry.get("caption"), str):
            yield BadRow("caption_no_text", source_row, id)
        else:
            clips[id].sentences.append(entry["caption"])
