# SPDX-License-Identifier: Apache-2.0
"""Which split a picture belongs to, where the source does not say it picture by picture."""

import hashlib
import pathlib
import re
from collections.abc import Sequence

from cots_jax.errors import UserError

TRAIN, HELD_OUT = "train", "val"
MAX_SPLITS = 100  # more of them are a column that means something else
# how files and folders of published sets are called: train-00000-of-00012, captions_val2017, test/
NAMED = re.compile(r"(?:^|[^a-z])(train|training|val|valid|validation|dev|test)(?![a-z])")
SPLIT_FOLDER = re.compile(r"(train|training|val|valid|validation|dev|test)[-_]?\d*")
KNOWN = ("train", "val", "dev", "test")
SYNONYMS = {"training": TRAIN, "valid": "val", "validation": "val"}


def held_out_split(id: str, held_out: float) -> str:
    """`val` for the ids whose sha256 lies in the lowest `held_out` part of its range, else `train`
    (own choice), so that adding pictures moves none from one side to the other."""
    return HELD_OUT if place(id) < held_out else TRAIN


def place(id: str) -> float:
    """Where an id's sha256 lies in its range, from 0 to 1."""
    digest = hashlib.sha256(id.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_in_name(path: pathlib.PurePath) -> str | None:
    """The split that a file's name, or else the folders above it from the inside, speak of."""
    for part in reversed(path.parts):
        found = NAMED.findall(part.lower())
        if found:
            return SYNONYMS.get(found[0], found[0])
    return None


def split_folder(name: str) -> str | None:
    """The split that a folder is called after, and nothing else: `Train`, `val2017`."""
    found = SPLIT_FOLDER.fullmatch(name.lower())
    return SYNONYMS.get(found[1], found[1]) if found else None


def split_named(name: str) -> str:
    """A split as a table names it; `Train`, `validation` and the like as other sources have it."""
    return SYNONYMS.get(name.lower(), name.lower() if name.lower() in KNOWN else name)


def splits_in_names(paths: Sequence[pathlib.PurePath]) -> dict[pathlib.PurePath, str | None]:
    """The split of each file by its name, or None for all where no name speaks of one.

    UserError where some do and some do not: those would land in a split of our choice.
    """
    found = {path: split_in_name(path) for path in paths}
    named = [path for path, split in found.items() if split is not None]
    silent = [path for path, split in found.items() if split is None]
    if named and silent:
        raise UserError(
            f"{named[0]} names a split and {silent[0]} does not: put train, val or test into every "
            "file's name or into none, or prepare them apart"
        )
    return found


def train_last(split: str | None) -> bool:
    """The key by which sources are sorted: of a picture that is in two splits the later is
    dropped, and that must never be the one to be evaluated. Where `--held_out` decides, the order
    is the source's, and it may be."""
    return split in (TRAIN, None)
