# SPDX-License-Identifier: Apache-2.0
"""The command line of the search door."""

import argparse
from pathlib import Path

from cots_jax.retrieval.index_files import Storage


def parser(description: str | None) -> argparse.ArgumentParser:
    """Its result has `command`, index or query, beside the flags of that command."""
    top = argparse.ArgumentParser(prog="python -m cots_jax.search", description=description)
    commands = top.add_subparsers(dest="command", required=True)
    _add_index(commands.add_parser("index", help="embed a collection, or what is new in it"))
    _add_query(commands.add_parser("query", help="search it by text, by picture, or both"))
    return top


def _add_index(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", "--workdir", dest="model", required=True, type=Path,
        help="a training folder, or an exported one")  # fmt: skip
    add("--images", required=True, help="a folder or tar of pictures, or FOLDER#SPLIT (prepared)")
    add("--out", required=True, type=Path, help="the index to make or to bring up to date")
    add("--dtype", type=Storage, choices=list(Storage), default=Storage.FLOAT32,
        help="how vectors are kept: float32 (default) or float16")  # fmt: skip
    add("--json", action="store_true", help="print index.json on stdout")


def _add_query(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--index", required=True, type=Path, help="what `index` has made")
    add("--text", default="", help="words, or an expression: '2*golden retriever - snow'")
    add("--image", default="", help="a picture file")
    add("--minus", action="append", default=[], metavar="TEXT", help="take this away; repeatable")
    add("--top", type=int, default=10, help="how many pictures (default 10)")
    add("--model", "--workdir", dest="model", default="", help="default: the index's own")
    add("--json", action="store_true", help="print the hits as JSON on stdout")
