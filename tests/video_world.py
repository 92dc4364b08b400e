# SPDX-License-Identifier: Apache-2.0
"""The tiny world as films: each of its pictures grows brighter, in the folder that MSR-VTT has."""

import dataclasses
import pathlib

import numpy as np
from films import write_film
from msrvtt_like import Clip, write_annotation, write_names, write_sentences
from tiny_world import PATTERNS, draw

SIDE, FRAMES = 32, 9
SPLITS = ("train", "train", "train", "test")  # of the clips one after the other


@dataclasses.dataclass(frozen=True)
class Files:
    """What `prepare msrvtt` is given."""

    annotation: str
    lists: str
    videos: str = "videos"


def film(above: str, below: str) -> list[np.ndarray]:
    picture = np.asarray(draw(above, below).resize((SIDE, SIDE), 0), np.float64)
    return [(picture * (0.4 + 0.6 * i / (FRAMES - 1))).astype(np.uint8) for i in range(FRAMES)]


def write_videos(root: pathlib.Path) -> Files:
    """64 films of which 40 are trained on, 8 held for validation, 16 tested with one sentence."""
    (root / "videos").mkdir(parents=True)
    clips, test = [], {}
    for number, above in enumerate(PATTERNS):
        for other, below in enumerate(PATTERNS):
            held_out = (number + other) % 4 == 0
            kind = "test" if held_out else "validate" if (number + other) % 8 == 1 else "train"
            id = f"video{len(clips)}"
            said = f"{above} over {below}"
            clips.append(Clip(id, kind, (said, f"{said} {said}")))
            if held_out:
                test[id] = said
            write_film(root / "videos" / f"{id}.mp4", film(above, below))
    known = [clip for clip in clips if clip.split != "test"]
    write_annotation(root / "train_val.zip", known)
    write_annotation(root / "test.json", [clip for clip in clips if clip.split == "test"])
    write_names(root / "9k.csv", [clip.id for clip in known])
    write_sentences(root / "1ka.csv", test)
    return Files("train_val.zip,test.json", "9k.csv,1ka.csv")
