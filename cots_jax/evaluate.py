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
from cots_jax.retrieval.embeddings_io import load_embeddings
from cots_jax.retrieval.protocols import results_json, table
from cots_jax.switches import Switch


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    parser = argparse.ArgumentParser("python -m cots_jax.evaluate", description=__doc__)
    add = parser.add_argument
    add("--model", "--workdir", dest="model", help="a training folder")
    add("--data", default="", help="FOLDER#SPLIT, …; default: the run's own sets")
    add("--out", type=Path, help="folder; default: the run, or I_evaluation")
    add("--protocol", default="", help="a published one by name, e.g. coco_5k")
    add("--frames", type=int, default=0, help="of a video; default: as the run was trained")
    add("--again", action="store_true", help="evaluate what is evaluated already")
    add("--json", action="store_true", help="results.json on standard output")
    for name in ("image_embeddings", "text_embeddings", "text_image"):
        add(f"--{name}", help=".npy file")
    flags = parser.parse_args(argv)
    given = [flags.image_embeddings, flags.text_embeddings, flags.text_image]
    if bool(flags.model) == any(given) or any(given) != all(given):
        parser.error("name either --workdir, or all three of --image_embeddings … --text_image")
    try:
        use_compilation_cache()
        found = _evaluate(flags, [Path(file) for file in given if file])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if flags.json or found.results:  # an image tokenizer has notes only
        print(json.dumps(results_json(found.results)) if flags.json else table(found.results))
    for note in (*found.notes(), f"{found.file.stem}: {found.file}"):
        print(note, file=sys.stderr)
    return 0


def _evaluate(flags: argparse.Namespace, files: list[Path]) -> Evaluation:
    if flags.model:
        asked = flags.data, flags.out, Switch.ON if flags.again else Switch.OFF, flags.protocol
        return evaluate_folder(Path(flags.model), *asked, flags.frames)
    out = flags.out or files[0].with_name(f"{files[0].stem}_evaluation")
    return evaluate_embeddings(load_embeddings(*files), files[0].stem, out, flags.protocol)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
