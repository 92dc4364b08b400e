# SPDX-License-Identifier: Apache-2.0
"""Exports a trained model: `python -m cots_jax.export --model=runs/demo --out=exports/demo`.

safetensors with a model card, StableHLO and ONNX, each checked against the model.
"""

import sys
from collections.abc import Sequence

from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.portable.flags import parse_flags
from cots_jax.portable.folder import export_folder
from cots_jax.weights.exported import FACTS


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    flags = parse_flags(argv, __doc__)
    try:
        use_compilation_cache()
        done = export_folder(flags.model, flags.out, flags.formats, flags.towers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    print(done.summary(), file=sys.stderr)
    if flags.json:
        print((flags.out / FACTS).read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
