# SPDX-License-Identifier: Apache-2.0
"""Searches a collection of pictures by text or picture.

python -m cots_jax.search index --model=runs/demo --images=photos --out=indexes/photos
python -m cots_jax.search query --index=indexes/photos --text="a red car"
python -m cots_jax.search serve --index=indexes/photos
"""

import argparse
import json
import sys
from collections.abc import Sequence

from cots_jax.collection.expression import in_words
from cots_jax.collection.flags import order_of, parser
from cots_jax.collection.indexing import carry_out
from cots_jax.collection.query import Looking, Question, ask, table
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.retrieval.index_files import INDEX_FILE
from cots_jax.serve.access import Address
from cots_jax.serve.start import start


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    flags = parser(__doc__).parse_args(argv)
    try:
        use_compilation_cache()
        print({"index": _index, "query": _query, "serve": _serve}[flags.command](flags), end="")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return 0


def _index(flags: argparse.Namespace) -> str:
    order = order_of(flags)
    for line in carry_out(order):
        print(line, file=sys.stderr)
    return (order.folder / INDEX_FILE).read_text(encoding="utf-8") if flags.json else ""


def _query(flags: argparse.Namespace) -> str:
    question = Question(flags.text, flags.image, flags.minus)
    hits = ask(flags.index, question, Looking(flags.top, flags.where, flags.engine), flags.model)
    if len(question.terms()) > 1:
        print(f"looked for {in_words(question.terms())}", file=sys.stderr)
    said = json.dumps({"hits": [hit.to_json() for hit in hits]}) if flags.json else table(hits)
    return said + "\n"


def _serve(flags: argparse.Namespace) -> str:
    where = Address(flags.host, flags.port, tuple(flags.name), flags.token_file, flags.rate)
    start(flags.index, flags.images, flags.model, where, flags.alike)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
