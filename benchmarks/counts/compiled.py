# SPDX-License-Identifier: Apache-2.0
"""The tiny config's step as XLA compiles it for eight fake devices; nothing runs.

Memory and collectives are the compiler's choice, so they are recorded with its version. The queue
is counted by what one more column of it costs: with `column_chunk` that has to stay below a byte a
row of the batch, which is less than a column of anything of [b, k], of logits or of a mask.
"""

import json
from collections import Counter
from typing import Any

from benchmarks.counts.configs import config_of
from benchmarks.counts.record import VERSION, installed_version
from cots_jax.planning import planner
from cots_jax.planning.planner import Compilation, plan_step
from cots_jax.planning.targets import target_of

MESHES = {"data": (1, 1), "data, fsdp and tensor": (2, 2)}  # fsdp, tensor; of eight
ROWS, CHUNK, LENGTHS = 1024, 256, (2048, 16_384)
QUEUE = "tiny, a column of the queue"
WHOLE, CHUNKED = "bytes of temporaries, whole", "bytes of temporaries, in chunks"


def count() -> dict[str, Any]:
    """On both meshes, and a queue at two lengths, whole and in chunks."""
    # Without them it takes half the time.
    planner.OPTIONS["cpu"] = planner.OPTIONS["cpu"] | {"xla_cpu_use_fusion_emitters": False}
    found: dict[str, Any] = {VERSION: installed_version()}
    for name, (fsdp, tensor) in MESHES.items():
        keys = (f"--config.hardware.fsdp={fsdp}", f"--config.hardware.tensor={tensor}")
        found[f"tiny over {name}"] = _counted(_compiled("cpu-8", "--config.batch=32", *keys))
    found[QUEUE] = {"rows": ROWS, WHOLE: column_bytes(0), CHUNKED: column_bytes(CHUNK)}
    return found


def broken(found: dict[str, Any]) -> list[str]:
    """A line where logits in chunks are materialised whole."""
    column = found[QUEUE]
    if column[CHUNKED] < column["rows"]:
        return []
    return [
        f"{QUEUE}: costs {column[CHUNKED]} bytes of temporaries with column_chunk={CHUNK}, a byte "
        f"or more for each of {column['rows']} rows: something of [b, k] is materialised whole"
    ]


def column_bytes(chunk: int) -> int:
    """Temporaries that one more column of the queue costs one device, in bytes.

    chunk: of config.method.column_chunk.
    """
    levels = ("--config.method.weight_mvm=0", "--config.method.weight_mlm=0")
    short, long = (
        _compiled(
            "cpu-1",
            f"--config.batch={ROWS}",
            f"--config.method.queue_length={length}",
            f"--config.method.column_chunk={chunk}",
            *levels,
        ).memory.temporaries
        for length in LENGTHS
    )
    return (long - short) // (LENGTHS[1] - LENGTHS[0])


def _compiled(row: str, *keys: str) -> Compilation:
    config = config_of("tiny", row, "--config.hardware.scan=on", *keys)
    found = plan_step(config, target_of(config.hardware)).compiled
    assert found is not None, "the CPU's compiler refuses no step for its memory"
    return found


def _counted(one: Compilation) -> dict[str, Any]:
    runs: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    for collective in one.collectives:
        runs[collective.kind] += collective.times
        sent[collective.kind] += collective.wire_a_step
    return {
        "bytes of temporaries": one.memory.temporaries,
        "bytes moved": one.traffic,
        "collectives": {kind: {"count": runs[kind], "bytes": sent[kind]} for kind in sorted(runs)},
    }


if __name__ == "__main__":
    print(json.dumps({"compiled": count()}))
