# SPDX-License-Identifier: Apache-2.0
"""Do a step's gradients depend on how XLA fuses sums on a CPU?

    python -m benchmarks.step.fusions [demo | b16-224 | b16-384]

XLA's compiler for CPUs hands products, sums and chains of both to a library, which in jaxlib
0.10.2 gives wrong sums for some programs (docs/troubleshooting.md). One step in float32 by a
process that does so and by one that hands nothing over: the first moments, a tenth of the
gradients, of every array are held against each other, by the greatest difference over the array's
greatest value.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.measure import PROJECT
from benchmarks.step.__main__ import config_of
from benchmarks.step.ours import ours
from cots_jax.errors import UserError

NOTHING = "--xla_cpu_experimental_ynn_fusion_type="
PAIRS = {"demo": 64, "b16-224": 4, "b16-384": 2}


def moments(size: str, out: Path) -> None:
    """Writes the first moments after one step of all levels, by their place in the state."""
    mine = ours(config_of(size, "full", PAIRS[size], "float32"))
    mine.run()
    found = optax.tree_utils.tree_get(mine.state.opt_state, "mu")
    leaves = jax.tree_util.tree_leaves_with_path(found)
    arrays: dict[str, Any] = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
    np.savez(out, **arrays)


def differences(size: str) -> dict[str, float]:
    """The greatest relative difference of each array's gradient, the greatest first.

    Raises UserError if a process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, more in (("handed", ""), ("kept", NOTHING)):
            out = Path(folder) / f"{name}.npz"
            flags = f"{os.environ.get('XLA_FLAGS', '')} {more}".strip()
            environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
            command = [sys.executable, "-m", "benchmarks.step.fusions", size, str(out)]
            done = subprocess.run(
                command, env=environment, cwd=PROJECT, capture_output=True, text=True
            )
            if done.returncode:
                raise UserError(f"a step with XLA_FLAGS={flags!r} failed:\n{done.stderr[-3000:]}")
            found.append(dict(np.load(out)))
    first, second = found
    apart = {
        name: float(np.abs(first[name] - kept).max() / max(np.abs(kept).max(), 1e-30))
        for name, kept in second.items()
    }
    return dict(sorted(apart.items(), key=lambda item: -item[1]))


def main(argv: list[str]) -> int:
    """Prints the arrays that differ most, as JSON. Exit status: 0 done, 1 failed, 2 wrong use."""
    size = argv[0] if argv else "demo"
    if size not in PAIRS:
        print(f"size is one of {', '.join(PAIRS)}, not {size!r}", file=sys.stderr)
        return 2
    if len(argv) > 1:
        moments(size, Path(argv[1]))
        return 0
    try:
        apart = differences(size)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    most = dict(list(apart.items())[:5])
    print(json.dumps({"arrays": len(apart), "median": float(np.median([*apart.values()])), **most}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
