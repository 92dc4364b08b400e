# SPDX-License-Identifier: Apache-2.0
"""An index that a program fills: rows added, replaced and deleted by their names.

    create("indexes/mine", model)
    put("indexes/mine", [Row("a.jpg", ("a red car",))], model.encode_images(["a.jpg"]))
    delete("indexes/mine", ["a.jpg"])

What was asked for is on the disk when a call returns, all of it or none, whatever happens to the
process afterwards. An index that `search index` has made follows its collection and nobody else.
"""

import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from cots_jax.collection.claim import claimed
from cots_jax.collection.old_rows import OldRows
from cots_jax.collection.parts_writer import PART_ROWS, PartsWriter, Stored
from cots_jax.errors import UserError
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.checks import check_embeddings
from cots_jax.retrieval.index_files import (
    IMAGES,
    INDEX_FILE,
    Facts,
    Part,
    Row,
    Storage,
    damage,
    fault,
    part_columns,
    part_numbers,
    read_facts,
    remove_part,
    write_facts,
)

KIND = "rows"  # in place of a kind of source
UNIT = 1e-2  # how far from 1 the length of a unit vector may be, in half precision too


def create(folder: str | Path, model: Pretrained, storage: Storage = Storage.FLOAT32) -> None:
    """An empty index for vectors of a model. UserError where the folder holds anything."""
    folder = Path(folder)
    with claimed(folder):
        if (folder / INDEX_FILE).exists():
            raise UserError(f"{folder} is an index already: choose another folder")
        path = model.source.folder
        write_facts(
            folder,
            Facts(
                images={"kind": KIND, "path": ""},
                model={
                    "path": str(path),
                    "relative": os.path.relpath(path, folder.resolve()),
                    **model.identity(),
                },
                preprocessing={
                    "size": model.preprocessing.size,
                    "mean": list(model.preprocessing.mean),
                    "std": list(model.preprocessing.std),
                },
                width=model.model.config.vision.embed_dim,
                storage=storage,
                skipped={},
                parts=(),
            ),
        )


def put(folder: str | Path, rows: Sequence[Row], vectors: Float[np.ndarray, "n e"]) -> None:
    """Adds rows with their unit vectors; a row whose name is there takes its place.

    UserError, also where a part that would have to be copied is damaged.
    """
    folder, names = Path(folder), {row.name for row in rows}
    found = check_embeddings(vectors, "picture")
    if len(found) != len(rows) or len(names) != len(rows):
        raise UserError(
            f"{len(found)} vectors, {len(rows)} rows and {len(names)} names: give one of each"
        )
    if not np.allclose(np.linalg.norm(found, axis=1), 1, atol=UNIT):
        raise UserError("the vectors are not of length 1: divide them by their lengths")
    _change(folder, names, [Stored(row, {IMAGES: v}) for row, v in zip(rows, found, strict=True)])


def delete(folder: str | Path, names: Collection[str]) -> None:
    """Takes rows away; names that are not there are no error. UserError as of `put`."""
    _change(Path(folder), set(names), [])


def _change(folder: Path, gone: set[str], new: Sequence[Stored]) -> None:
    """Parts that lose a row, and those less than half full, are written anew behind the others."""
    if not (folder / INDEX_FILE).exists():
        raise UserError(f"there is no index in {folder}: `create` it first")
    with claimed(folder):
        facts = read_facts(folder)
        if facts.images["kind"] != KIND:
            raise UserError(
                f"{folder} follows {facts.images['path']}: change that, and run `search index`"
            )
        if new and new[0].vectors[IMAGES].shape != (facts.width,):
            width = len(new[0].vectors[IMAGES])
            raise UserError(f"the vectors are {width} wide and {folder} is {facts.width} wide")
        left = [~_named(folder, part, gone) for part in facts.parts]
        writer = PartsWriter(folder, facts.storage, facts.model, PART_ROWS)
        old, kept = OldRows(folder, facts.parts), []
        for number, (part, rows) in enumerate(zip(facts.parts, left, strict=True)):
            if rows.all() and 2 * len(rows) >= PART_ROWS:
                kept.append(part)
            elif rows.any():  # what is copied gets a new digest, under which damage would be sound
                wrong = fault(folder, part)
                if wrong:
                    raise damage(folder, wrong)
                old.copy(number, rows, writer)
        for one in new:
            writer.add([one])
        parts = (*kept, *writer.finish())
        write_facts(folder, dataclasses.replace(facts, parts=parts))
        for number in set(part_numbers(folder)) - {part.number for part in parts}:
            remove_part(folder, number)


def _named(folder: Path, part: Part, names: Collection[str]) -> Bool[np.ndarray, "n"]:
    """The rows that have one of these names."""
    (column,) = part_columns(folder, part, ["image_path"])
    return np.array([name in names for name in column.to_pylist()], bool)
