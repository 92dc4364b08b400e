# SPDX-License-Identifier: Apache-2.0
"""How much of a training step lies outside the compiled program.

    python -m benchmarks.step_share --config=configs/demo.py [--config.KEY=value …]

Blocks of whole steps as the loop takes them (next batch, transfer, knobs, program) alternate with
blocks of the bare program on a batch that is there already; the share outside is 1 - bare / whole,
from the medians. Prints JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.train.assemble import assembled
from cots_jax.train.mesh import by_rows, make_mesh, whole

BLOCKS, STEPS = 8, 20


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    config = parse_arguments(argv, __doc__ or "").config
    use_compilation_cache()
    mesh = make_mesh(config.hardware)
    with tempfile.TemporaryDirectory() as folder, assembled(config, Path(folder), mesh) as task:
        state, frozen, batches = task.fresh(), task.frozen(), iter(task.batches())
        rows, everywhere = by_rows(mesh), whole(mesh)
        middle = task.clock.total_steps // 2
        spent = {"data": 0.0, "transfer": 0.0, "program": 0.0}

        def fetch() -> tuple[Any, Any]:
            begin = time.perf_counter()
            found = next(batches)
            waited = time.perf_counter()
            placed = jax.device_put(found, rows), jax.device_put(task.knobs(middle), everywhere)
            spent["data"] += waited - begin
            spent["transfer"] += time.perf_counter() - waited
            return placed

        def run(arguments: tuple[Any, Any]) -> None:
            nonlocal state
            begin = time.perf_counter()
            state, measured = task.step(state, frozen, *arguments)
            jax.block_until_ready(measured)
            spent["program"] += time.perf_counter() - begin

        ready = fetch()
        run(ready)  # compiles
        steps: dict[str, list[float]] = {"whole": [], "bare": []}
        parts: dict[str, float] = {}
        for _ in range(BLOCKS):
            spent.update(dict.fromkeys(spent, 0.0))
            steps["whole"].append(_seconds(lambda: run(fetch())))
            parts = {name: 1e3 * seconds / STEPS for name, seconds in spent.items()}
            steps["bare"].append(_seconds(lambda: run(ready)))
    median = {name: 1e3 * statistics.median(values) for name, values in steps.items()}
    outside = 1 - median["bare"] / median["whole"]
    result = {"milliseconds": median, "last_block_milliseconds": parts, "share_outside": outside}
    print(json.dumps(result, indent=1))


def _seconds(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - begin) / STEPS


if __name__ == "__main__":
    main(sys.argv[1:])
