# SPDX-License-Identifier: Apache-2.0
"""COCO's own caption files: captions_train2017.json, captions_val2014.json and the like."""

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cots_jax.data.prepare.captions import Repeats
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.images import Images
from cots_jax.data.prepare.json_stream import list_elements
from cots_jax.data.prepare.samples import BadRow
from cots_jax.data.prepare.settings import Settings, require_file
from cots_jax.data.prepare.shards import file_digest
from cots_jax.data.prepare.sources import Found, Row, row_of
from cots_jax.data.prepare.splits import splits_in_names
from cots_jax.data.prepare.tables import images_arguments, table_units
from cots_jax.data.prepare.write import Prepared
from cots_jax.errors import UserError


@dataclass(frozen=True)
class CocoOptions(Settings):
    """What `prepare coco` is asked for."""

    captions: tuple[pathlib.Path, ...]
    images: pathlib.Path


def prepare_coco(out: pathlib.Path, options: CocoOptions) -> Prepared:
    """Writes the folder of one or several caption files, which share a folder or tar of pictures.

    The file's name says the split (`captions_val2017.json`); where none does, `--held_out`
    decides. A caption that its picture has twice is kept, as the published protocols count it.
    """
    options.check()
    for path in options.captions:
        require_file(path, "captions", "captions_val2017.json or the like")
    names = [path.name for path in options.captions]
    if not names:
        raise UserError("--captions is empty: give captions_val2017.json or the like")
    if len(set(names)) < len(names):
        raise UserError(f"--captions={','.join(names)} names a file twice")
    arguments = {
        "captions": names,
        "captions_sha256": [file_digest(path) for path in options.captions],
    }
    source = Source(
        "coco",
        arguments | images_arguments(options.images, out),
        lambda: table_units(
            coco_rows(options.captions), Images(options.images), options.held_out, Repeats.KEEP
        ),
        ",".join(map(str, options.captions)),
    )
    return prepare_source(out, source, options)


def coco_rows(paths: Sequence[pathlib.Path]) -> Iterator[Row | BadRow]:
    """One row a caption; `FILE:NUMBER` counts the file's annotations, or for a picture without
    one the file's pictures, from 1."""
    splits = splits_in_names([pathlib.PurePath(path.name) for path in paths])
    for path in paths:
        yield from _file_rows(path, splits[pathlib.PurePath(path.name)])


def _file_rows(path: pathlib.Path, split: str | None) -> Iterator[Row | BadRow]:
    names, silent = {}, {}  # picture id -> name, and -> place of those without a caption so far
    for number, entry in enumerate(list_elements(path, "images"), 1):
        id = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(id, int | str):
            names[id], silent[id] = entry.get("file_name"), number
        else:
            yield BadRow("row_unreadable", f"{path.name}:image {number}")
    for number, entry in enumerate(list_elements(path, "annotations"), 1):
        source_row = f"{path.name}:{number}"
        id = entry.get("image_id") if isinstance(entry, dict) else None
        if not isinstance(id, int | str):
            yield BadRow("row_unreadable", source_row)
        elif id not in names:
            yield BadRow("image_id_unknown", source_row, str(id))
        else:
            silent.pop(id, None)
            values = {"image": names[id], "caption": entry.get("caption"), "split": split}
            yield row_of(values, Found("image", "caption", split is not None), source_row)
    for id, number in silent.items():
        yield BadRow("no_caption", f"{path.name}:image {number}", str(names[id]))
