# SPDX-License-Identifier: Apache-2.0
"""An annotation and lists in the form of MSR-VTT's, for clips named as its own are."""

import csv
import json
import pathlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

INFO = {"contributor": "nobody", "version": "1.0", "year": "2016"}


@dataclass(frozen=True)
class Clip:
    """One clip and its sentences."""

    id: str
    split: str  # train, validate or test
    sentences: tuple[str, ...]


def annotation(clips: Sequence[Clip]) -> dict:
    """Sentences of all clips mixed, as in the original."""
    videos = [
        {"category": 9, "url": "u", "video_id": c.id, "start time": 1.5, "split": c.split, "id": i}
        for i, c in enumerate(clips)
    ]
    most = max(len(clip.sentences) for clip in clips)
    sentences = [
        {"caption": clip.sentences[n], "video_id": clip.id}
        for n in range(most)
        for clip in reversed(clips)
        if n < len(clip.sentences)
    ]
    numbered = [{**sentence, "sen_id": i} for i, sentence in enumerate(sentences)]
    return {"info": INFO, "videos": videos, "sentences": numbered}


def write_annotation(path: pathlib.Path, clips: Sequence[Clip]) -> pathlib.Path:
    """As JSON, or where the name ends so as a zip with a file beside it."""
    text = json.dumps(annotation(clips))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("readme.txt", "about it")
            packed.writestr("train_val_videodatainfo.json", text)
            packed.writestr("__MACOSX/._train_val_videodatainfo.json", b"\0")
    else:
        path.write_text(text)
    return path


def write_names(path: pathlib.Path, ids: Sequence[str]) -> pathlib.Path:
    """A list to train on."""
    path.write_text("video_id\n" + "".join(f"{id}\n" for id in ids))
    return path


def write_sentences(path: pathlib.Path, sentences: dict[str, str]) -> pathlib.Path:
    """A list to test on, as JSFUSION's."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "vid_key", "video_id", "sentence"])
        for number, (id, sentence) in enumerate(sentences.items()):
            writer.writerow([f"ret{number}", f"msr{id[5:]}", id, sentence])
    return path
