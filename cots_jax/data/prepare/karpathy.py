# SPDX-License-Identifier: Apache-2.0
"""Karpathy's splits: dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json.

The split files of Karpathy & Fei-Fei, "Deep visual-semantic alignments for generating image
descriptions" (CVPR 2015), by which retrieval on these sets is reported.
"""

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cots_jax.data.prepare.captions import Repeats
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.images import Images
from cots_jax.data.prepare.json_stream import list_elements
from cots_jax.data.prepare.samples import BadRow
from cots_jax.data.prepare.settings import Settings, require_file
from cots_jax.data.prepare.shards import file_digest
from cots_jax.data.prepare.sources import Found, Row, row_of
from cots_jax.data.prepare.splits import TRAIN
from cots_jax.data.prepare.tables import images_arguments, table_units
from cots_jax.data.prepare.write import Prepared

RESTVAL = "restval"  # COCO's validation pictures that are in neither val nor test: trained on


@dataclass(frozen=True)
class KarpathyOptions(Settings):
    """What `prepare karpathy` is asked for."""

    captions: pathlib.Path
    images: pathlib.Path


def prepare_karpathy(out: pathlib.Path, options: KarpathyOptions) -> Prepared:
    """Writes the folder of one of Karpathy's JSON files, by its own splits.

    A caption that its picture has twice is kept, as the published protocols count it.
    """
    options.check()
    captions = options.captions
    require_file(captions, "captions", "dataset_coco.json or another of Karpathy's files")
    arguments = {"captions": captions.name, "captions_sha256": file_digest(captions)}
    source = Source(
        "karpathy",
        arguments | images_arguments(options.images, out),
        lambda: table_units(
            karpathy_rows(captions), Images(options.images), options.held_out, Repeats.KEEP
        ),
        str(captions),
    )
    return prepare_source(out, source, options)


def karpathy_rows(path: pathlib.Path) -> Iterator[Row | BadRow]:
    """One row a picture, `restval` as `train`; `FILE:NUMBER` counts the pictures from 1."""
    for number, entry in enumerate(list_elements(path, "images"), 1):
        source_row = f"{path.name}:{number}"
        if not isinstance(entry, dict):
            yield BadRow("row_unreadable", source_row)
            continue
        raws = _raw_captions(entry)
        values = {
            "image": _name(entry),
            "captions": [raw for raw in raws if isinstance(raw, str)],
            "split": TRAIN if entry.get("split") == RESTVAL else entry.get("split"),
        }
        for raw in raws:
            if not isinstance(raw, str):
                yield BadRow("caption_no_text", source_row, str(values["image"]))
        yield row_of(values, Found("image", "captions", has_splits=True), source_row)


def _name(entry: dict[str, Any]) -> Any:
    """COCO's pictures lie in the folder of their year and part, the others' in one folder."""
    folder, name = entry.get("filepath"), entry.get("filename")
    return f"{folder}/{name}" if folder and isinstance(name, str) else name


def _raw_captions(entry: dict[str, Any]) -> list[Any]:
    sentences = entry.get("sentences")
    if not isinstance(sentences, list):
        return []
    return [said.get("raw") if isinstance(said, dict) else None for said in sentences]
