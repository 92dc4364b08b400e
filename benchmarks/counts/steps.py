# SPDX-License-Identifier: Apache-2.0
"""Steps counted as shapes, nothing compiled: FLOPs in the jaxpr, bytes of the arguments."""

import json
from typing import Any

from benchmarks.counts.configs import config_of
from cots_jax.planning.memory import argument_bytes
from cots_jax.planning.planner import planned_for
from cots_jax.planning.targets import target_of
from cots_jax.train.flops import count_flops

SHARED = "--config.method.masked.forward=shared"
SMALLER = "--config.model=b16-224"
# Name -> config, the names behind its colon, its keys.
STEPS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "demo": ("demo", "", ()),
    "demo contrastive": ("demo", "contrastive", ()),
    "b16-384": ("pretrain", "", ()),
    "b16-384 contrastive": ("pretrain", "contrastive", ()),
    "b16-384 shared forward": ("pretrain", "", (SHARED,)),
    "b16-224": ("pretrain", "", (SMALLER,)),
    "b16-224 contrastive": ("pretrain", "contrastive", (SMALLER,)),
    "b16-224 shared forward": ("pretrain", "", (SMALLER, SHARED)),
}
SIZES = ("demo", "b16-384", "b16-224")
PROMISED = ("b16-384", "b16-224")
# At most so many times the FLOPs of contrastive alone.
MOST = {"": 1.85, " shared forward": 1.3}


def count(*sizes: str) -> dict[str, Any]:
    """Each step of STEPS, of its whole batch on one device; `sizes`: of these models alone."""
    chosen = sizes or SIZES
    return {name: _counted(*step) for name, step in STEPS.items() if name.startswith(tuple(chosen))}


def broken(found: dict[str, Any]) -> list[str]:
    """What costs more beside contrastive alone than is promised, a line each."""
    lines = []
    for size in (size for size in PROMISED if size in found):
        for kind, most in MOST.items():
            ratio = found[size + kind]["flops"] / found[f"{size} contrastive"]["flops"]
            if ratio > most:
                lines.append(
                    f"{size}{kind}: {ratio:.3f} times the flops of contrastive alone, at most "
                    f"{most} are promised"
                )
    return lines


def _counted(config: str, variant: str, keys: tuple[str, ...]) -> dict[str, Any]:
    names = ",".join(filter(None, (variant, "cpu-1")))
    chosen = config_of(config, names, "--config.hardware.scan=on", *keys)
    planned = planned_for(chosen, target_of(chosen.hardware))
    return {
        "batch": chosen.batch,
        "flops": count_flops(planned.step, *planned.arguments),
        "parameters": planned.parameters,
        "bytes": argument_bytes(planned),
    }


if __name__ == "__main__":
    print(json.dumps({"steps": count()}))
