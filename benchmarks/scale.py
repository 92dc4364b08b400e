# SPDX-License-Identifier: Apache-2.0
"""How the cost of a step grows with batch, queue, image side and text length.

    python -m benchmarks.scale [--axes=batch,queue,side,length] [--profile]

The full objective of configs/pretrain.py with small towers (ViT 4 x 192, patch 16; BERT 2 x 192) on
one device; codes come with the batch. One of the four sizes grows, the others stay at those of
`START`. The steps of an axis run on zeros, in turns and in one process; compilation is outside.

An exponent is the slope of a line through the logarithms: 1 is a cost in proportion, 2 one with the
square, 0 no growth. `measured` is that of the median times, `counted` that of the operations in the
jaxpr (train/flops.py), which knows neither element-wise work nor memory; `last` are the same from
the two largest sizes alone, where what does not grow weighs least. `in the end` is where the
exponent goes when the size grows without bound: the side squares the patches, and attention is
quadratic in them. --profile says in which kinds of XLA's instructions the time of the two largest
sizes of each axis goes. --config.KEY=value sets further keys.
"""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import plots
from benchmarks.measure import PROJECT, Found, Table, flags_of, in_turns, median, run_benchmark
from benchmarks.running_step import RunningStep
from benchmarks.step.profile import by_kind, profile
from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError, nearest
from cots_jax.models.two_stream import SIZES
from cots_jax.planning.planner import planned_for
from cots_jax.planning.targets import target_of
from cots_jax.train.flops import count_flops
from cots_jax.train.planning import PlannedStep
from cots_jax.train.utilisation import as_counted

CONFIG = PROJECT / "configs" / "pretrain.py"
BASE, NAME = "photo-64", "scaled"  # whose towers are taken, and what they are called here
POSITIONS = 512
ROUNDS = 5
START = {"batch": 16, "queue": 1024, "side": 64, "length": 32}
KEYS = {"batch": "batch", "queue": "method.queue_length", "length": "data.text_length"}


@dataclasses.dataclass(frozen=True)
class Axis:
    """Sizes that are measured, a few for a quick look, and the exponent without bound."""

    sizes: tuple[int, ...]
    unit: str
    bound: int

    def chosen(self, quick: bool) -> tuple[int, ...]:
        """The sizes, or the first two."""
        return self.sizes[:2] if quick else self.sizes


AXES = {
    "batch": Axis((8, 16, 32, 64), "pairs", 1),
    "queue": Axis((1024, 4096, 16_384, 65_536), "pairs", 1),
    "side": Axis((32, 64, 128, 256), "pixels", 4),
    "length": Axis((16, 32, 64, 128, 256), "tokens", 2),
}


@contextlib.contextmanager
def towers_of(side: int) -> Iterator[None]:
    """Within, the model NAME has pictures of this side."""
    size = SIZES[BASE]
    vision = dataclasses.replace(size.vision, image_size=side)
    text = dataclasses.replace(size.text, positions=POSITIONS)
    with mock.patch.dict(SIZES, {NAME: dataclasses.replace(size, vision=vision, text=text)}):
        yield


def planned(sizes: Mapping[str, int], keys: Sequence[str]) -> PlannedStep:
    """The step at these sizes."""
    given = [f"--config.{key}={sizes[name]}" for name, key in KEYS.items()]
    own = [f"--config={CONFIG}:cpu-1", f"--config.model={NAME}", "--config.data.train=data/pairs"]
    with towers_of(sizes["side"]):
        config = parse_arguments([*own, *given, *keys], __doc__ or "").config
        return planned_for(config, target_of(config.hardware))


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def measure(name: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Seconds and operations of a step at each size of an axis."""
    sizes = AXES[name].chosen(flags.quick)
    steps, flops = {}, []
    for size in sizes:
        plan = planned(START | {name: size}, flags.keys)
        flops.append(count_flops(as_counted(plan.step), *plan.arguments))
        steps[str(size)] = RunningStep(plan)
        steps[str(size)].run()  # compiles
        print(f"{name} {size:,} compiled", file=sys.stderr, flush=True)
    rounds = flags.rounds or (1 if flags.quick else ROUNDS)
    spent = in_turns({size: step.run for size, step in steps.items()}, rounds)
    found: dict[str, Any] = {"sizes": sizes, "flops": flops, "seconds": spent}
    if flags.profile:
        found["kinds"] = {
            str(size): by_kind(profile(steps[str(size)].run)[0]) for size in sizes[-2:]
        }
    return found


def measured(flags: argparse.Namespace) -> Found:
    """A table of exponents, and one of times for each axis."""
    names = flags.axes.split(",")
    for name in names:
        if name not in AXES:
            raise UserError(f"--axes has {name!r}; {nearest(name, AXES, 'axes')}")
    use_compilation_cache()
    found = {name: measure(name, flags) for name in names}
    rows, tables, panels = [], [], []
    for name, axis in found.items():
        sizes, flops = axis["sizes"], axis["flops"]
        times = [median(axis["seconds"][str(size)]) for size in sizes]
        rows.append(
            (name, exponent(sizes, times), exponent(sizes, flops),
             exponent(sizes[-2:], times[-2:]), exponent(sizes[-2:], flops[-2:]),
             AXES[name].bound)
        )  # fmt: skip
        columns = (f"{name}, {AXES[name].unit}", "ms a step", "GFLOP a step", "GFLOP/s")
        lines: list[tuple[Any, ...]] = [
            (size, 1e3 * spent, count / 1e9, count / 1e9 / spent)
            for size, spent, count in zip(sizes, times, flops, strict=True)
        ]
        tables.append(Table(f"Steps as {name} grows", columns, lines))
        if flags.profile:
            tables.append(_kinds(name, axis["kinds"]))
        panels.append(_panel(name, sizes, times, flops))
    columns = ("axis", "measured", "counted", "measured, last", "counted, last", "in the end")
    exponents = Table(f"Exponents; at first {_start()}", columns, rows)
    return Found([exponents, *tables], found, plots.page(panels))


def _kinds(name: str, kinds: Mapping[str, Mapping[str, float]]) -> Table:
    """Milliseconds of a step by the kind of instruction, at the two largest sizes."""
    (one, before), (two, after) = kinds.items()
    rows: list[tuple[Any, ...]] = [
        (kind, before.get(kind, 0.0), spent) for kind, spent in after.items()
    ]
    columns = ("kind of instruction", f"ms at {int(one):,}", f"ms at {int(two):,}")
    return Table(f"Where the time goes as {name} grows; threads added up", columns, rows)


def _start() -> str:
    return ", ".join(f"{name} {size:,}" for name, size in START.items())


def _panel(name: str, sizes: Sequence[int], times: Sequence[float], flops: Sequence[int]) -> str:
    """Milliseconds, and the operations at the rate that the largest step has."""
    rate = flops[-1] / times[-1]
    counted = [1e3 * count / rate for count in flops]
    lines = ([1e3 * spent for spent in times], counted)
    labels = [f"{size:,}" for size in sizes]
    return plots.panel(
        "ms a step", f"{name}, {AXES[name].unit}", ("measured", "counted"), labels, lines
    )


def main(argv: Sequence[str]) -> int:
    """Exit status as `run_benchmark` has it."""
    parser = flags_of("scale", __doc__ or "")
    parser.add_argument("--axes", default=",".join(AXES), help="a comma list")
    parser.add_argument("--profile", action="store_true", help="by kinds of XLA's instructions")
    parser.set_defaults(keys=[])
    return run_benchmark("scale", parser, argv, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
