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
from cots_jax.offline import Evaluation, evaluate_embeddings, evaluate_folder
from cots_jax.processes import is_first, join_processes
from cots_jax.retrieval.embeddings_io import load_embeddings
from cots_jax.retrieval.protocols import results_json, table
from cots_jax.switches import Switch


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    parser = argparse.ArgumentParser("python -m cots_jax.evaluate", description=__doc__)
    parser.add_argument("--model", "--workdir", dest="model", help="a training folder")
    parser.add_argument("--data", default="", help="FOLDER#SPLIT, …; default: the run's own sets")
    parser.add_argument("--out", type=Path, help="folder; default: the run, or I_evaluation")
    parser.add_argument("--protocol", default="", help="a published one by name, e.g. coco_5k")
    parser.add_argument("--again", action="store_true", help="evaluate what is evaluated already")
    parser.add_argument("--json", action="store_true", help="results.json on standard output")
    for name in ("image_embeddings", "text_embeddings", "text_image"):
        parser.add_argument(f"--{name}", help=".npy file")
    flags = parser.parse_args(argv)
    given = [flags.image_embeddings, flags.text_embeddings, flags.text_image]
    if bool(flags.model) == any(given) or any(given) != all(given):
        parser.error("name either --workdir, or all three of --image_embeddings … --text_image")
    try:
        join_processes()
        use_compilation_cache()
        found = _evaluate(flags, list(filter(None, given)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if is_first():
        _say(found, flags.json)
    return 0


def _say(found: Evaluation, as_json: bool) -> None:
    for note in found.notes():
        print(note, file=sys.stderr)
    if as_json or found.results:  # an image tokenizer has notes only
        print(json.dumps(results_json(found.results)) if as_json else table(found.results))
    print(f"{found.file.stem}: {found.file}", file=sys.stderr)


def _evaluate(flags: argparse.Namespace, given: list[str]) -> Evaluation:
    again = Switch.ON if flags.again else Switch.OFF
    if flags.model:
        return evaluate_folder(Path(flags.model), flags.data, flags.out, again, flags.protocol)
    files = [Path(file) for file in given]
    out = flags.out or files[0].with_name(f"{files[0].stem}_evaluation")
    return evaluate_embeddings(load_embeddings(*files), files[0].stem, out, flags.protocol)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
