# SPDX-License-Identifier: Apache-2.0
"""A caption table and its pictures to a prepared folder."""

import pathlib
from dataclasses import dataclass

from cots_jax.data.prepare.captions import Repeats
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.images import Images
from cots_jax.data.prepare.settings import Settings, require_file
from cots_jax.data.prepare.shards import file_digest
from cots_jax.data.prepare.sources import Columns, read_table
from cots_jax.data.prepare.tables import images_arguments, table_units
from cots_jax.data.prepare.write import Prepared


@dataclass(frozen=True)
class PairsOptions(Settings):
    """What `prepare pairs` is asked for."""

    captions: pathlib.Path
    images: pathlib.Path
    image_column: str | None = None
    caption_column: str | None = None


def prepare_pairs(out: pathlib.Path, options: PairsOptions) -> Prepared:
    """Writes the folder of a user's own pairs; UserError where no pair can be used."""
    options.check()
    captions, images = options.captions, options.images
    require_file(captions, "captions", "a CSV, TSV, JSONL or parquet file")
    arguments = {
        "captions": captions.name,
        "captions_sha256": file_digest(captions),
        **images_arguments(images, out),
        "image_column": options.image_column,
        "caption_column": options.caption_column,
    }
    columns = Columns(options.image_column, options.caption_column)
    source = Source(
        "pairs",
        arguments,
        lambda: table_units(
            read_table(captions, columns), Images(images), options.held_out, Repeats.DROP
        ),
        str(captions),
    )
    return prepare_source(out, source, options)
