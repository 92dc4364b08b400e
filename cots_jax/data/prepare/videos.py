# SPDX-License-Identifier: Apache-2.0
"""A caption table and a folder of videos to a prepared folder."""

import pathlib
from dataclasses import dataclass

from cots_jax.data.prepare.captions import Repeats
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.settings import Settings, require_file
from cots_jax.data.prepare.shards import file_digest
from cots_jax.data.prepare.sources import IMAGE_COLUMNS, VIDEO_COLUMNS, Columns, read_table
from cots_jax.data.prepare.tables import table_units
from cots_jax.data.prepare.video import decoder_version
from cots_jax.data.prepare.video_files import Videos, videos_arguments
from cots_jax.data.prepare.write import Prepared

FRAMES = 24  # of a video, as many as training may draw from; own choice
UNIT = 50  # videos; a unit is what tasks share


@dataclass(frozen=True)
class VideosOptions(Settings):
    """What `prepare videos` is asked for."""

    captions: pathlib.Path
    videos: pathlib.Path
    frames: int = FRAMES
    video_column: str | None = None
    caption_column: str | None = None


def prepare_videos(out: pathlib.Path, options: VideosOptions) -> Prepared:
    """Writes the folder of a user's own videos; UserError where no pair can be used."""
    options.check()
    captions = options.captions
    require_file(captions, "captions", "a CSV, TSV, JSONL or parquet file")
    arguments = {
        "captions": captions.name,
        "captions_sha256": file_digest(captions),
        **videos_arguments(options.videos, options.frames, out),
        "video_column": options.video_column,
        "caption_column": options.caption_column,
    }
    columns = Columns(
        options.video_column,
        options.caption_column,
        known=VIDEO_COLUMNS + IMAGE_COLUMNS,
        flag="video_column",
    )
    source = Source(
        "videos",
        arguments,
        lambda: table_units(
            read_table(captions, columns),
            Videos(options.videos, options.frames),
            options.held_out,
            Repeats.DROP,
            UNIT,
        ),
        str(captions),
        frames=options.frames,
        decoder=decoder_version(),
    )
    return prepare_source(out, source, options)
