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
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.measure import median, seconds
from benchmarks.running_step import RunningStep
from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.files import write_whole
from cots_jax.planning.planner import Plan, plan_step, planned_for
from cots_jax.planning.targets import target_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GATHERED = "all-gather"
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
    step = RunningStep(planned_for(config, target_of(config.hardware)))
    step.run()  # compiles
    return 1e3 * median([seconds(step.run) for _ in range(STEPS)])


def plot(table: Table) -> str:
    """Two panels, memory and time over k."""
    names, *rows = table
    values = [[float(cell.replace(",", "")) for cell in row] for row in rows]
    labels = [row[0] for row in rows]
    lines = [[row[column] for row in values] for column in (1, 2, 3)]
    first, second, third = (name.split(",")[0] for name in names[1:])
    memory = plots.panel("MiB a chip", "k, pairs", (first, second), labels, lines[:2])
    speed = plots.panel("ms a step", "k, pairs", (third,), labels, lines[2:])
    return plots.page([memory, speed])


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
