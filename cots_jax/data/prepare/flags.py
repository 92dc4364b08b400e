# SPDX-License-Identifier: Apache-2.0
"""The command line of the prepare door."""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from cots_jax.data.prepare.classes import ClassesOptions, prepare_classes
from cots_jax.data.prepare.coco import CocoOptions, prepare_coco
from cots_jax.data.prepare.emoji import prepare_emoji
from cots_jax.data.prepare.huggingface import HuggingFaceOptions, prepare_huggingface
from cots_jax.data.prepare.img2dataset import Img2datasetOptions, prepare_img2dataset
from cots_jax.data.prepare.inspection import Inspection, inspect
from cots_jax.data.prepare.karpathy import KarpathyOptions, prepare_karpathy
from cots_jax.data.prepare.merge import merge_parts
from cots_jax.data.prepare.msrvtt import MsrvttOptions, prepare_msrvtt
from cots_jax.data.prepare.pairs import PairsOptions, prepare_pairs
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.tasks import parse_task
from cots_jax.data.prepare.tfds import TfdsOptions, prepare_tfds
from cots_jax.data.prepare.twins import Duplicates
from cots_jax.data.prepare.videos import FRAMES, VideosOptions, prepare_videos
from cots_jax.data.prepare.webdataset import WebdatasetOptions, prepare_webdataset
from cots_jax.data.prepare.write import Prepared

Make = Callable[..., Prepared | Inspection]  # (out, **flags of its own)
Add = Callable[..., Any]  # add_argument of a parser


def parser(description: str | None) -> argparse.ArgumentParser:
    """Its result has `make`, to be called with `out` and the flags that are left when those of
    the door are taken away."""
    top = argparse.ArgumentParser(prog="python -m cots_jax.prepare", description=description)
    kinds = top.add_subparsers(dest="kind", required=True)
    door, shared = _door_flags(), _shared_flags()

    def source(name: str, make: Make, help: str) -> Add:
        added = kinds.add_parser(name, parents=[door, shared], help=help)
        added.set_defaults(make=make)
        return added.add_argument

    emoji = kinds.add_parser("emoji", parents=[door], help="7,874 drawings with their names")
    emoji.add_argument("--size", type=int, default=72, help="pixels a side (default 72)")
    emoji.set_defaults(make=prepare_emoji)
    _table_sources(source)
    _file_sources(source)
    _video_sources(source)
    merge = kinds.add_parser("merge", parents=[door], help="join the parts that --task has made")
    merge.set_defaults(make=merge_parts)
    found = kinds.add_parser("inspect", help="what is in a prepared folder, with a contact sheet")
    found.add_argument("folder", type=pathlib.Path, help="a prepared folder")
    found.add_argument("--out", type=pathlib.Path, help="where the sheet goes (default: FOLDER)")
    found.add_argument("--json", action="store_true", help="print what was found on stdout")
    found.set_defaults(make=inspect)
    return top


def _table_sources(source: Callable[[str, Make, str], Add]) -> None:
    """Captions in a file, pictures by their names in it."""
    add = source("pairs", _with(PairsOptions, prepare_pairs), "your own pairs")
    add("--captions", required=True, type=pathlib.Path, help="a CSV, TSV, JSONL or parquet file")
    _add_images(add)
    _add_columns(add)
    make = _with(KarpathyOptions, prepare_karpathy)
    add = source("karpathy", make, "COCO and Flickr by the splits that papers report")
    add("--captions", required=True, type=pathlib.Path, help="dataset_coco.json or the like")
    _add_images(add)
    add = source("coco", _with(CocoOptions, prepare_coco), "COCO's own caption files")
    add("--captions", required=True, type=_paths, help="captions_val2017.json,… (one or several)")
    _add_images(add)


def _file_sources(source: Callable[[str, Make, str], Add]) -> None:
    """Captions and pictures in the same files or folders."""
    make = _with(ClassesOptions, prepare_classes)
    add = source("classes", make, "a folder of pictures for each class")
    _add_source(add, "the folder above the classes, or above train, val and test")
    make = _with(WebdatasetOptions, prepare_webdataset)
    add = source("webdataset", make, "plain tars of pictures and captions")
    _add_source(add, "a folder of tars or one of them")
    add("--caption_column", help="a key of the .json files (default: .txt files, then known keys)")
    make = _with(Img2datasetOptions, prepare_img2dataset)
    add = source("img2dataset", make, "what img2dataset has fetched")
    _add_source(add, "its output folder: tars, files or parquet")
    add("--caption_column", help="default: caption")
    make = _with(HuggingFaceOptions, prepare_huggingface)
    add = source("hf", make, "a Hugging Face dataset on this disk")
    _add_source(add, "a folder of parquet or Arrow files, or one of them")
    _add_columns(add)
    make = _with(TfdsOptions, prepare_tfds)
    add = source("tfds", make, "a data set of tensorflow-datasets on this disk, as array_record")
    _add_source(add, "its folder, or its name below $TFDS_DATA_DIR")
    add("--split", help="NAME,…: only these of its splits (default: all)")
    add("--image_feature", help="where there is more than one picture")
    add("--caption_feature", help="where the names do not say it; nested ones as captions/text")


def _video_sources(source: Callable[[str, Make, str], Add]) -> None:
    """Captions in a file, videos by their names in it."""
    add = source("videos", _with(VideosOptions, prepare_videos), "your own videos")
    add("--captions", required=True, type=pathlib.Path, help="a CSV, TSV, JSONL or parquet file")
    _add_videos(add)
    add("--video_column", help="where the names of the columns do not say it")
    add("--caption_column", help="where the names of the columns do not say it")
    make = _with(MsrvttOptions, prepare_msrvtt)
    add = source("msrvtt", make, "MSR-VTT by the lists that papers report")
    add("--annotation", required=True, type=_paths, help="…_videodatainfo.json,… or their zips")
    _add_videos(add)
    add("--list", type=_paths, default=(), help="MSRVTT_train.9k.csv,MSRVTT_JSFUSION_test.csv or "
        "the like (default: the annotation's own splits)")  # fmt: skip


def _add_videos(add: Add) -> None:
    add("--videos", required=True, type=pathlib.Path, help="a folder of video files")
    add("--frames", type=int, default=FRAMES, help=f"kept of a video (default {FRAMES})")


def _add_images(add: Add) -> None:
    add("--images", required=True, type=pathlib.Path, help="a folder or an uncompressed tar")


def _add_source(add: Add, help: str) -> None:
    add("--source", required=True, type=pathlib.Path, help=help)


def _with(options: Callable[..., Settings], prepare: Callable[..., Prepared]) -> Make:
    return lambda out, **flags: prepare(out, options(**flags))


def _paths(text: str) -> tuple[pathlib.Path, ...]:
    return tuple(pathlib.Path(part) for part in text.split(",") if part)


def _door_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    add = flags.add_argument
    add("--out", required=True, type=pathlib.Path, help="the folder to make")
    add("--image_tokens", help="an image tokenizer, to make the pictures' codes ahead of time")
    add("--model", default="b16-384", help="whose patches the codes fit (default b16-384)")
    add("--json", action="store_true", help="print dataset.json on stdout")
    return flags


def _shared_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    add = flags.add_argument
    add("--held_out", type=float, default=0.05, help="part kept as split val (default 0.05)")
    add("--longest_side", type=int, default=256, help="pixels (default 256)")
    add("--name", help="of the data set (default: the name of the --out folder)")
    add("--exclude", help="FOLDER#SPLIT,…: prepared splits whose pictures are left out")
    add("--task", type=parse_task, help="i/n: only this share, to be joined by merge")
    add("--duplicates", type=Duplicates, choices=list(Duplicates), default=Duplicates.KEEP,
        help="of one picture, also saved anew: keep (default) or drop")  # fmt: skip
    return flags


def _add_columns(add: Add) -> None:
    add("--image_column", help="where the names of the columns do not say it")
    add("--caption_column", help="where the names of the columns do not say it")
