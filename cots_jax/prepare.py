# SPDX-License-Identifier: Apache-2.0
"""Prepares data: `python -m cots_jax.prepare emoji|pairs --out=DIR …` (see --help)."""

import argparse
import json
import pathlib
import sys

from cots_jax.config import UserError
from cots_jax.data.prepare.emoji import prepare_emoji
from cots_jax.data.prepare.pairs import PairsOptions, prepare_pairs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cots_jax.prepare", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--out", required=True, type=pathlib.Path, help="the folder to make")
    add("--image_tokens", help="an image tokenizer, to make the pictures' codes ahead of time")
    add("--model", default="b16-384", help="whose patches the codes fit (default b16-384)")
    add("--json", action="store_true", help="print dataset.json on stdout")
    kinds = parser.add_subparsers(dest="kind", required=True)
    emoji = kinds.add_parser("emoji", parents=[common], help="7,874 drawings with their names")
    emoji.add_argument("--size", type=int, default=72, help="pixels a side (default 72)")
    add = kinds.add_parser("pairs", parents=[common], help="your own pairs").add_argument
    add("--captions", required=True, type=pathlib.Path, help="a CSV, TSV or JSONL file")
    add("--images", required=True, type=pathlib.Path, help="a folder or an uncompressed tar")
    add("--held_out", type=float, default=0.05, help="part kept as split val (default 0.05)")
    add("--longest_side", type=int, default=256, help="pixels (default 256)")
    add("--name", help="of the data set (default: the name of the --out folder)")
    add("--image_column", help="where the header does not say it")
    add("--caption_column", help="where the header does not say it")
    return parser


def main() -> int:
    """Runs the command line; returns the exit code."""
    options = vars(_parser().parse_args())
    kind, out, as_json = (options.pop(key) for key in ("kind", "out", "json"))
    tokenizer, model = options.pop("image_tokens"), options.pop("model")
    try:
        if kind == "emoji":
            prepared = prepare_emoji(out, **options)
        else:
            prepared = prepare_pairs(out, PairsOptions(**options))
        print(prepared.summary(), file=sys.stderr)
        if tokenizer:
            from cots_jax.image_tokenizer import make_image_tokens  # JAX: slow, and seldom needed

            print(make_image_tokens(out, tokenizer, model), file=sys.stderr)
    except UserError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(prepared.facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
