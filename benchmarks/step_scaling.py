# SPDX-License-Identifier: Apache-2.0
"""How a step's memory and collectives grow: with chips, with the queue, with gradient pieces.

    python -m benchmarks.step_scaling chips [--row=v5p] [--counts=8,64,512,1024] [--pairs=8]
    python -m benchmarks.step_scaling queue [--row=v5e-8] [--counts=0,4096,…] [--plot=FILE.svg]
    python -m benchmarks.step_scaling pieces [--row=v5p-256] [--counts=1,4,16,64]

Each line of `chips` and `pieces` is a program compiled ahead of time for chips that are not here
(docs/cost.md); nothing runs. `queue` has the memory from such programs, and besides takes some
steps with all columns on one device of this machine. --config names the config (`queue`:
configs/demo.py, else configs/pretrain.py) and --config.KEY its keys. Prints a table in Markdown.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.files import write_whole
from cots_jax.planning.planner import Plan, plan_step, planned_for
from cots_jax.planning.targets import target_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GATHERED = "all-gather"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 380, 240, 60, 40, 30  # of a panel of the plot
STEPS = 5

Table = list[list[str]]


def planned(flags: argparse.Namespace, row: str, *keys: str) -> Plan:
    """The step of the config on a row, compiled."""
    file, _, names = flags.config.partition(":")
    spec = f"--config={file}:{','.join(filter(None, (names, row)))}"
    config = parse_arguments([spec, *keys, *flags.keys], __doc__ or "").config
    return plan_step(config, target_of(config.hardware))


def chips(flags: argparse.Namespace) -> Table:
    """Bytes that come into a chip a step, with as many pairs a chip."""
    table = [["chips", "batch", "gathered, MB", "summed and exchanged, MB", "collectives"]]
    for count in flags.counts:
        batch = flags.pairs * count
        plan = planned(flags, f"{flags.row}-{count}", f"--config.batch={batch}")
        found = plan.compiled.collectives if plan.compiled else []
        gathered = sum(one.wire_a_step for one in found if one.kind == GATHERED)
        summed = sum(one.wire_a_step for one in found if one.kind != GATHERED)
        runs = sum(one.times for one in found)
        table.append(
            [
                f"{count:,}",
                f"{batch:,}",
                f"{gathered / 1e6:,.1f}",
                f"{summed / 1e6:,.1f}",
                f"{runs}",
            ]
        )
        _say(table)
    return table


def pieces(flags: argparse.Namespace) -> Table:
    """Temporaries of a batch that is cut into pieces."""
    table = [["pieces", "pairs a chip at once", "temporaries, GiB", "in all, GiB", "fits"]]
    for count in flags.counts:
        keys = (f"--config.batch={flags.batch}", f"--config.hardware.accumulate={count}")
        plan = planned(flags, flags.row, *keys)
        held = sum(plan.arguments.values())
        found = plan.compiled.memory.temporaries if plan.compiled else plan.wanted - held
        at_once = flags.batch / plan.config.hardware.chips / count
        sizes = [f"{size / 2**30:.2f}" for size in (found, plan.wanted)]
        table.append([f"{count}", f"{at_once:g}", *sizes, "yes" if plan.fits else "no"])
        _say(table)
    return table


def queue(flags: argparse.Namespace) -> Table:
    """Memory of a chip whose share of the queue grows, and a step's time on this machine."""
    table = [["k", "queue, MiB a chip", "temporaries, MiB a chip", "ms a step, one device"]]
    for count in flags.counts:
        keys = (f"--config.method.queue_length={count}",)
        plan = planned(flags, flags.row, *keys)
        temporaries = plan.compiled.memory.temporaries if plan.compiled else 0
        sizes = [f"{size / 2**20:,.1f}" for size in (plan.arguments["queue"], temporaries)]
        table.append([f"{count:,}", *sizes, f"{milliseconds(flags, *keys):,.0f}"])
        _say(table)
    if flags.plot:
        write_whole(flags.plot, plot(table))
    return table


def milliseconds(flags: argparse.Namespace, *keys: str) -> float:
    """Median of some steps on zeros, on one device of this machine."""
    config = parse_arguments([f"--config={flags.config},cpu-1", *keys, *flags.keys], "").config
    step = planned_for(config, target_of(config.hardware))
    state, *rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), step.arguments)
    run = jax.jit(step.step, donate_argnums=0)
    took = []
    for _ in range(STEPS + 1):  # the first one compiles
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(run(state, *rest))
        took.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(took[1:])


def plot(table: Table) -> str:
    """Two panels, memory and time over k, both axes logarithmic but for k = 0."""
    names, *rows = table
    values = [[float(cell.replace(",", "")) for cell in row] for row in rows]
    labels = [row[0] for row in rows]
    memory = _panel(
        "MiB a chip", names[1:3], labels, [[v[1] for v in values], [v[2] for v in values]]
    )
    speed = _panel("ms a step", names[3:], labels, [[v[3] for v in values]])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'{memory}<g transform="translate({WIDTH} 0)">{speed}</g></svg>\n'
    )


def _panel(
    title: str, names: Sequence[str], labels: Sequence[str], lines: Sequence[Sequence[float]]
) -> str:
    least, top = 0.01, 10.0 ** len(str(int(max(max(line) for line in lines))))
    decades = [least * 10**power for power in range(round(_log(top) - _log(least)) + 1)]
    decades = [value for value in decades if value >= min(min(line) for line in lines) / 10]

    def y(value: float) -> float:
        low, high = _log(decades[0]), _log(decades[-1])
        share = (max(_log(max(value, 1e-9)), low) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def x(place: int) -> float:
        return LEFT + 15 + place * (WIDTH - LEFT - 40) / max(1, len(labels) - 1)

    parts = [f'<text x="{LEFT}" y="14" font-weight="bold">{title}</text>']
    for value in decades:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(value):.0f}" y2="{y(value):.0f}" '
            f'stroke="#ddd"/><text x="{LEFT - 5}" y="{y(value) + 4:.0f}" text-anchor="end">'
            f"{value:g}</text>"
        )
    for place, label in enumerate(labels):
        parts.append(
            f'<text x="{x(place):.0f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" '
            f'font-size="9">{label}</text>'
        )
    for number, (name, line) in enumerate(zip(names, lines, strict=True)):
        colour = ("#1a5fb4", "#c64600")[number]
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(line))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{LEFT + 100 + 130 * number}" y="14" fill="{colour}">'
            f"{name.split(',')[0]}</text>"
        )
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">k, pairs</text>')
    return "".join(parts)


def _log(value: float) -> float:
    return math.log10(value)


def _say(table: Table) -> None:
    print(" | ".join(table[-1]), file=sys.stderr, flush=True)


def markdown(table: Table) -> str:
    """The table."""
    lines = [" | ".join(row) for row in (table[0], ["---"] * len(table[0]), *table[1:])]
    return "\n".join(f"| {line} |" for line in lines)


MODES: dict[str, Callable[[argparse.Namespace], Table]] = {
    "chips": chips,
    "queue": queue,
    "pieces": pieces,
}
DEFAULTS = {
    "chips": ("v5p", "8,64,512,1024", "pretrain.py"),
    "queue": ("v5e-8", "0,4096,16384,65536,262144,1048576", "demo.py"),
    "pieces": ("v5p-256", "1,4,16,64", "pretrain.py"),
}


def main(argv: Sequence[str]) -> int:
    """Measures and prints. Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--config", default="")
    parser.add_argument("--row", default="", help="without a number of chips in `chips`")
    parser.add_argument("--counts", default="", help="chips, columns or pieces")
    parser.add_argument("--pairs", type=int, default=8, help="a chip, in `chips`")
    parser.add_argument("--batch", type=int, default=16_384, help="in `pieces`")
    parser.add_argument("--plot", type=Path, help="an SVG, of `queue`")
    flags, flags_keys = parser.parse_known_args(argv)
    row, counts, config = DEFAULTS[flags.mode]
    flags.keys, flags.row = flags_keys, flags.row or row
    flags.config = flags.config or f"{CONFIGS / config}:"
    flags.counts = [int(count) for count in (flags.counts or counts).split(",")]
    try:
        use_compilation_cache()
        print(markdown(MODES[flags.mode](flags)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
