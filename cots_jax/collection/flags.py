# SPDX-License-Identifier: Apache-2.0
"""The command line of the search door."""

import argparse
import dataclasses
from pathlib import Path

from cots_jax.collection.indexing import Order
from cots_jax.collection.videos import SECONDS
from cots_jax.data.prepare.tasks import parse_task
from cots_jax.retrieval.engine import EngineKind
from cots_jax.retrieval.index_files import Storage


def parser(description: str | None) -> argparse.ArgumentParser:
    """Its result has `command`, index, query or serve, beside the flags of that command."""
    top = argparse.ArgumentParser(prog="python -m cots_jax.search", description=description)
    commands = top.add_subparsers(dest="command", required=True)
    _add_index(commands.add_parser("index", help="embed a collection, or what is new in it"))
    _add_query(commands.add_parser("query", help="search it by text, by picture, or both"))
    _add_serve(commands.add_parser("serve", help="search it on a web page, or over HTTP"))
    return top


def order_of(flags: argparse.Namespace) -> Order:
    """What the flags of `index` ask for."""
    named = {field.name: getattr(flags, field.name) for field in dataclasses.fields(Order)}
    return Order(**named)


def _add_index(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", "--workdir", dest="model", required=True, type=Path,
        help="a training folder, or an exported one")  # fmt: skip
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", default="", help="a folder or tar of pictures, or FOLDER#SPLIT "
        "(prepared)")  # fmt: skip
    what.add_argument("--videos", default="", help="a folder of video files")
    add("--seconds", type=float, default=SECONDS,
        help=f"of a video that make one row (default {SECONDS:g})")  # fmt: skip
    add("--out", required=True, type=Path, help="the index to make or to bring up to date")
    add("--dtype", dest="storage", type=Storage, choices=list(Storage), default=Storage.FLOAT32,
        help="how vectors are kept: float32 (default) or float16")  # fmt: skip
    add("--task", type=parse_task, help="i/n: only this share; the run without it joins them")
    add("--engine", type=EngineKind, choices=list(EngineKind),
        help="what answers queries (default: as the index has it, exact when new)")  # fmt: skip
    add("--uri", default="", help="of Milvus: http://HOST:19530 (default: a file in the index)")
    add("--json", action="store_true", help="print index.json on stdout")


def _add_query(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--index", required=True, type=Path, help="what `index` has made")
    add("--text", default="", help="words, or an expression: '2*golden retriever - snow'")
    add("--image", default="", help="a picture file")
    add("--minus", action="append", default=[], metavar="TEXT", help="take this away; repeatable")
    add("--where", default="", metavar="CONDITION",
        help="only these: 'caption has \"dog\" and not path starts \"old/\"'")  # fmt: skip
    add("--engine", type=EngineKind, choices=list(EngineKind), help="default: the index's own")
    add("--top", type=int, default=10, help="how many pictures (default 10)")
    add("--model", "--workdir", dest="model", default="", help="default: the index's own")
    add("--json", action="store_true", help="print the hits as JSON on stdout")


def _add_serve(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--index", required=True, type=Path, help="what `index` has made, or is to make first")
    add("--images", default="", help="bring the index up to date with these first (see `index`)")
    add("--model", "--workdir", dest="model", default="", help="default: the index's own")
    add("--host", default="127.0.0.1", help="address to listen on; a token is needed for any but "
        "this machine's own (default 127.0.0.1)")  # fmt: skip
    add("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    add("--name", action="append", default=[], help="a host name it is called by; repeatable")
    add("--token_file", default="", help="holds the token; default: a new one where one is needed")
    add("--rate", type=float, default=20.0, help="searches a second for each address (default 20)")
    add("--alike", type=float, default=0.99,
        help="cosine from which pictures are shown as one (default 0.99)")  # fmt: skip
