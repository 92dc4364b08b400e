# SPDX-License-Identifier: Apache-2.0
"""The command line of the evaluate door."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cots_jax.switches import Switch

GIVEN = ("image_embeddings", "text_embeddings", "text_image")
LABELLING = ("classes", "prompts", "probe")


def parse_flags(argv: Sequence[str], description: str | None) -> argparse.Namespace:
    """The flags by their names; `given` has the files of anybody's vectors, or is empty.

    Wrong use ends the program with status 2.
    """
    parser = argparse.ArgumentParser("python -m cots_jax.evaluate", description=description)
    add = parser.add_argument
    add("--model", "--workdir", dest="model", help="a training folder, or an exported one")
    add("--data", default="", help="FOLDER#SPLIT, …; default: the run's own sets")
    add("--out", type=Path, help="folder; default: the run, or I_evaluation")
    add("--protocol", default="", help="a published one by name, e.g. coco_5k")
    add("--frames", type=int, default=0, help="of a video; default: as the run was trained")
    add("--classes", type=Path, help="a file of classes, to sort the pictures into by words")
    add("--prompts", type=Path, help="a file of templates for the words, with {} in them")
    add("--probe", default="", help="FOLDER#SPLIT to train a linear probe on")
    add("--again", action="store_const", const=Switch.ON, default=Switch.OFF,
        help="evaluate what is evaluated already")  # fmt: skip
    add("--json", action="store_true", help="results.json on standard output")
    for name in GIVEN:
        add(f"--{name}", help=".npy file")
    flags = parser.parse_args(argv)
    given = [getattr(flags, name) for name in GIVEN]
    if bool(flags.model) == any(given) or any(given) != all(given):
        parser.error("name either --workdir, or all three of --image_embeddings … --text_image")
    if any(given) and any(getattr(flags, name) for name in LABELLING):
        parser.error("--classes, --prompts and --probe need a --workdir, which embeds")
    if any(given) and (flags.data or flags.frames):
        parser.error("--data and --frames say what a --workdir embeds; these vectors are there")
    flags.given = [Path(file) for file in given if file]
    return flags
