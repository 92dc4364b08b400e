# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: times in turns, memory, and facts of where a figure was taken.

A benchmark is a module with a `main` that calls `run_benchmark`: one command, `--quick` for a look
in seconds, `--out=FILE.json` for a record and FILE.svg for a plot. It measures into tables, which
are printed as Markdown and recorded with machine, versions, commit, date and command.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.plots import Bar
from cots_jax.errors import UserError
from cots_jax.files import write_whole

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array-record",
            "numpy", "pillow", "tokenizers", "torch")  # fmt: skip

Samples = Mapping[str, Sequence[float]]  # seconds of each round, the same rounds for all names
Cell = str | float | int | None  # None: not measured


@dataclasses.dataclass(frozen=True)
class Table:
    """Figures for a page; `columns` name their units."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]

    def markdown(self) -> str:
        """The table under its title."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        cells = (" | ".join(map(in_words, line)) for line in lines)
        return f"{self.title}\n\n" + "\n".join(f"| {line} |" for line in cells)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a benchmark has found. `details` are JSON-able and stand in the record alone; the plot
    is an SVG."""

    tables: list[Table]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    plot: str = ""


def in_words(cell: Cell) -> str:
    """Four digits of a number; nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def in_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, in_a_row: int = 0
) -> dict[str, list[float]]:
    """Seconds of each call in each round. The calls take turns, and each round begins with another
    one, so that what a machine does besides falls on all of them. Nothing is warmed up.

    in_a_row: above 0, a turn is the mean of so many calls after one that is not timed. Threads of
    one library wait busily for a while after its turn, which is no fault of the next one's.
    """
    names, spent = list(calls), {name: [0.0] * rounds for name in calls}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            spent[name][number] = _turn(calls[name], in_a_row)
    return spent


def _turn(call: Callable[[], Any], in_a_row: int) -> float:
    if not in_a_row:
        return seconds(call)
    call()
    return seconds(lambda: [call() for _ in range(in_a_row)]) / in_a_row


def ratio(spent: Samples, name: str, of: str) -> float:
    """Median over the rounds of the time of `name` in times that of `of`."""
    return statistics.median(a / b for a, b in zip(spent[name], spent[of], strict=True))


def least_and_most(spent: Samples, name: str, of: str) -> tuple[float, float]:
    """Of the same ratio over the rounds."""
    found = [a / b for a, b in zip(spent[name], spent[of], strict=True)]
    return min(found), max(found)


def spread(spent: Samples, name: str, of: str, unit: float = 1) -> str:
    """The least and the most of that ratio in words, to be read beside its median.

    unit: 100 for percent.
    """
    least, most = least_and_most(spent, name, of)
    return f"{unit * least:.3g} to {unit * most:.3g}"


def bar(
    name: str,
    spent: Samples,
    pair: tuple[str, str],
    aim: float | None = None,
    at_least: bool = True,
    unit: float = 1,
) -> Bar:
    """That ratio of a pair as a bar; the aim is in the same unit."""
    least, most = least_and_most(spent, *pair)
    return Bar(name, unit * ratio(spent, *pair), unit * least, unit * most, aim, at_least)


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return float(statistics.median(values))


def grown(call: Callable[[], Any]) -> int:
    """Bytes by which the memory of this process grows at most during a call.

    Linux counts the peak anew when it is told to; elsewhere the growth of the peak of the whole
    process stands for it, which is too little where more was held before.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - before)
    except OSError:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return 1024 * int(value.split()[0])
    raise OSError(f"no {key} here")


def processor() -> str:
    """The model of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "cpu"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    device = jax.devices()[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "device": processor() if device.platform == "cpu" else device.device_kind,
        "processor": processor(),
        "cores": cores(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Of the project, with a + where files differ from it; empty outside of a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except OSError:
        return ""


def flags_of(name: str, doc: str) -> argparse.ArgumentParser:
    """A parser with the flags that all benchmarks have."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: a look, no figures")
    parser.add_argument("--rounds", type=int, default=0, help="in turns; 0: the benchmark's own")
    parser.add_argument("--out", type=Path, help="a JSON file for the record; the plot beside it")
    return parser


def _telling(argv: Sequence[str]) -> list[str]:
    """The flags that decide over the figures, without folders of one machine."""
    told = [word for word in argv if not word.startswith("--out=")]
    return [re.sub("=/.*", "=FOLDER", word) for word in told]


def run_benchmark(
    name: str,
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    measured: Callable[[argparse.Namespace], Found],
) -> int:
    """Measures, prints the tables, writes the record.

    Where the parser has a default for `keys`, `--config.KEY=value` are taken and stand there.
    Exit status: 0 done, 1 failed with one line of reason, 2 wrong use.
    """
    takes_keys = parser.get_default("keys") is not None
    keys = [word for word in argv if takes_keys and word.startswith("--config.")]
    flags = parser.parse_args([word for word in argv if word not in keys])
    if takes_keys:
        flags.keys = keys
    begun = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        if flags.rounds < 0:
            raise UserError(f"--rounds is {flags.rounds}: use 0 or more")
        if flags.out and flags.out.suffix != ".json":
            raise UserError(f"--out={flags.out}: give a file that ends in .json")
        facts = {"machine": machine()}  # its load before ours
        found = measured(flags)
        record = {
            "benchmark": name,
            "command": shlex.join(["python", "-m", f"benchmarks.{name}", *_telling(argv)]),
            "date": begun,
            "commit": commit(),
            "quick": flags.quick,
            **facts,
            "versions": versions(),
            "tables": [dataclasses.asdict(table) for table in found.tables],
            "details": found.details,
        }
        if flags.out:
            write_whole(flags.out, json.dumps(record, indent=1) + "\n")
            if found.plot:
                write_whole(flags.out.with_suffix(".svg"), found.plot)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n\n".join(table.markdown() for table in found.tables))
    return 0
