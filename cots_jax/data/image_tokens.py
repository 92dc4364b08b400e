# SPDX-License-Identifier: Apache-2.0
"""Code ids made ahead of time, beside the shards of a prepared folder.

`SPLIT/image_tokens.npy` holds [records, n] ids in the order of the records; `image_tokens.json`
says what made them and is written last, so a folder without it has none.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Integer, UInt8

from cots_jax.data import records
from cots_jax.data.decoding import decode_picture
from cots_jax.data.prepare.progress import track
from cots_jax.errors import UserError
from cots_jax.files import write_whole

FACTS_FILE = "image_tokens.json"
PART_FILE = "image_tokens.part.json"
IDS_FILE = "image_tokens.npy"
BATCH = 32  # pictures encoded at once
SAVE_EVERY = 64  # batches between two notes of how far it is

Encode = Callable[[UInt8[np.ndarray, "b t s s 3"]], Integer[np.ndarray, "b n"]]


@dataclasses.dataclass(frozen=True)
class TokenFacts:
    """What the ids of a folder are: of whole pictures, so no shift, crop or flip fits them."""

    tokenizer: str
    digest: str  # of its parameters
    codes: int  # v
    grid: int  # n = grid ** 2
    image_size: int  # pixels a side of the tower's pictures, which it saw at its own size
    precision: str
    fingerprint: str  # of the folder's rows


def token_facts(folder: str | pathlib.Path) -> TokenFacts | None:
    """What was made ahead in a folder; None where nothing was. Raises UserError where it is off."""
    folder = pathlib.Path(folder)
    file = folder / FACTS_FILE
    if not file.exists():
        return None
    try:
        facts = TokenFacts(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it and make the ids again") from error
    if facts.fingerprint != records.read_facts(folder)["fingerprint"]:
        raise UserError(f"{file} belongs to other rows: remove it and make the ids again")
    return facts


def shared_facts(folders: Sequence[str], size: int, grid: int) -> TokenFacts | None:
    """What all folders have in common; None where none has ids.

    Raises UserError where some have none, or other ones than a tower of `size` px with `grid`
    patches a side can use.
    """
    found = {folder: token_facts(folder) for folder in dict.fromkeys(folders)}
    made = {folder: facts for folder, facts in found.items() if facts is not None}
    if not made:
        return None
    without = [folder for folder in found if folder not in made]
    if without:
        raise UserError(
            f"{', '.join(made)} has image tokens and {', '.join(without)} has none: run its "
            "prepare command again with --image_tokens"
        )
    (first, facts), *others = made.items()
    for folder, other in others:
        if (other.digest, other.precision) != (facts.digest, facts.precision):
            raise UserError(
                f"the image tokens of {first} and {folder} come from different tokenizers: make "
                "them again with the same"
            )
    for folder, each in made.items():
        if (each.image_size, each.grid) != (size, grid):
            raise UserError(
                f"the image tokens of {folder} are {each.grid} x {each.grid} a picture of "
                f"{each.image_size} px, the image tower has {grid} x {grid} patches of {size} px: "
                f"remove {folder}/{FACTS_FILE} and make them again for this model"
            )
    return facts


def open_tokens(folder: str | pathlib.Path, split: records.Split) -> Integer[np.ndarray, "r n"]:
    """The ids of one split, mapped from the disk. Raises UserError where they are damaged."""
    file = pathlib.Path(folder) / split.split / IDS_FILE
    facts = token_facts(folder)
    try:
        ids = np.lib.format.open_memmap(file, mode="r")  # np.load would take archives too
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"{file} cannot be read ({error}): make the ids again") from error
    if ids.dtype.kind not in "iu":
        raise UserError(f"{file} holds {ids.dtype} and no ids: make them again")
    if facts is None or ids.shape != (len(split), facts.grid**2):
        raise UserError(f"{file} is {list(ids.shape)} for {len(split)} records: make it again")
    return ids


def write_tokens(folder: pathlib.Path, facts: TokenFacts, encode: Encode) -> bool:
    """Makes the ids of all splits; False where they were there already.

    A run that was stopped is gone on with. Raises UserError where others are there.
    """
    there = token_facts(folder)
    if there is not None:
        if there != facts:
            raise UserError(
                f"{folder} has image tokens of {there.tokenizer} ({there.image_size} px): remove "
                f"{folder}/{FACTS_FILE} to have others made"
            )
        return False
    done = _done_before(folder, facts)
    for name in records.list_splits(folder):
        with records.open_split(folder, name) as split:
            _write_split(folder, split, facts, encode, done)
    write_whole(folder / FACTS_FILE, _to_json(facts))
    (folder / PART_FILE).unlink(missing_ok=True)
    return True


def _write_split(
    folder: pathlib.Path,
    split: records.Split,
    facts: TokenFacts,
    encode: Encode,
    done: dict[str, int],
) -> None:
    file = folder / split.split / IDS_FILE
    shape = (len(split), facts.grid**2)
    start = done.get(split.split, 0)
    try:
        kind = np.min_scalar_type(facts.codes - 1)
        ids = _begun(file, kind, shape) if start else None
        if ids is None:
            start = done[split.split] = 0
            _note(folder, facts, done)  # before what an older note speaks of is written over
            ids = np.lib.format.open_memmap(file, "w+", kind, shape)
        firsts = range(start, len(split), BATCH)
        for number, first in enumerate(track(firsts, f"image tokens of {split.split}"), 1):
            rows = range(first, min(first + BATCH, len(split)))
            found = [decode_picture(split.record(row).image, facts.image_size) for row in rows]
            # Always of one shape, since another one would be compiled anew.
            found += found[-1:] * (BATCH - len(rows))
            ids[first : rows.stop] = encode(np.stack(found)[:, None])[: len(rows)]
            if number % SAVE_EVERY == 0 or rows.stop == len(split):
                ids.flush()
                done[split.split] = rows.stop
                _note(folder, facts, done)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error}): make room, run it again") from error


def _begun(file: pathlib.Path, kind: np.dtype, shape: tuple[int, int]) -> np.memmap | None:
    """The ids of a stopped run, to be gone on with; None where the file is not the one it left."""
    try:
        ids = np.lib.format.open_memmap(file, "r+")
    except (OSError, ValueError, OverflowError):
        return None
    return ids if (ids.dtype, ids.shape) == (kind, shape) else None


def _note(folder: pathlib.Path, facts: TokenFacts, done: dict[str, int]) -> None:
    write_whole(folder / PART_FILE, json.dumps({"facts": _plain(facts), "done": done}))


def _done_before(folder: pathlib.Path, facts: TokenFacts) -> dict[str, int]:
    """How many records of each split a stopped run has finished, if it made the same ids."""
    try:
        part = json.loads((folder / PART_FILE).read_text("utf-8"))
        same = part["facts"] == _plain(facts)
        return {str(k): int(v) for k, v in part["done"].items()} if same else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _plain(facts: TokenFacts) -> dict[str, str | int]:
    return dataclasses.asdict(facts)


def _to_json(facts: TokenFacts) -> str:
    return json.dumps(_plain(facts), indent=1) + "\n"
