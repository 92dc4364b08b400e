# SPDX-License-Identifier: Apache-2.0
"""Prepares data: `python -m cots_jax.prepare SOURCE --out=DIR …` (see --help)."""

import json
import sys

from cots_jax.data.prepare.flags import parser
from cots_jax.errors import UserError


def main() -> int:
    """Runs the command line; returns the exit code."""
    options = vars(parser(__doc__).parse_args())
    make, out, as_json = (options.pop(key) for key in ("make", "out", "json"))
    tokenizer, model = (options.pop(key, None) for key in ("image_tokens", "model"))
    del options["kind"]
    try:
        if tokenizer and options.get("task"):
            raise UserError("--image_tokens is for the whole set: give it to merge, not to a task")
        prepared = make(out, **options)
        print(prepared.summary(), file=sys.stderr)
        if tokenizer:
            from cots_jax.image_tokenizer import make_image_tokens  # JAX: slow, and seldom needed

            print(make_image_tokens(out, tokenizer, model), file=sys.stderr)
    except UserError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return error.status
    if as_json:
        print(json.dumps(prepared.facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
