# SPDX-License-Identifier: Apache-2.0
"""Evaluates a trained folder: `python -m cots_jax.evaluate --workdir=runs/demo`.

Or anybody's vectors: `--image_embeddings=I.npy --text_embeddings=T.npy --text_image=M.npy`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.meeting.ending import run_door
from cots_jax.offline.flags import parse_flags
from cots_jax.offline.folder import Evaluation, Request, evaluate_embeddings, evaluate_folder
from cots_jax.processes import is_first, join_processes
from cots_jax.retrieval.embeddings_io import load_embeddings


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 failed with one line of reason, 2 wrong use, 75 a process lost."""
    flags = parse_flags(argv, __doc__)
    try:
        join_processes()
        use_compilation_cache()
        found = _evaluate(flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    if is_first():
        _say(found, flags.json)
    return 0


def _say(found: Evaluation, as_json: bool) -> None:
    for note in found.notes():
        print(note, file=sys.stderr)
    if as_json or found.tables():  # an image tokenizer has notes only
        print(json.dumps(found.json()) if as_json else found.tables())
    print(f"{found.file.stem}: {found.file}", file=sys.stderr)


def _evaluate(flags: argparse.Namespace) -> Evaluation:
    if flags.model:
        kept = ("data", "out", "again", "protocol", "frames", "classes", "prompts", "probe")
        asked = Request(**{name: getattr(flags, name) for name in kept})
        return evaluate_folder(Path(flags.model), asked)
    first = flags.given[0]
    out = flags.out or first.with_name(f"{first.stem}_evaluation")
    return evaluate_embeddings(load_embeddings(*flags.given), first.stem, out, flags.protocol)


if __name__ == "__main__":
    run_door(main, sys.argv[1:])
