# SPDX-License-Identifier: Apache-2.0
"""Where a step's time goes, by the instructions that XLA made of it."""

import collections
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from benchmarks.measure import Cell, Table
from cots_jax.errors import UserError

STEPS = 5
SHOWN = 20  # rows; the rest is summed
# By a word in the name, in this order: XLA names a fusion after what is in it. On CPUs that of its
# library (ynn) holds sums too, so that products count these as well.
KINDS = {
    "products": ("dot", "ynn", "gemm", "cublas", "convolution"),
    "loops over blocks": ("while", "dynamic"),
    "copies": ("copy", "transpose", "concatenate", "slice", "pad"),
}
ELSE = "element by element, sums"
_NUMBER = re.compile(r"[.\d]+$")
_EXECUTES = re.compile(r"Execut|::|^end: |^Thunk|^Thread|^Wait", re.IGNORECASE)

Spent = dict[str, float]


def profile(run: Callable[[], object], steps: int = STEPS) -> tuple[Spent, Spent]:
    """(milliseconds a step, calls a step) by the name of the instruction. Raises UserError."""
    run()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                run()
        files = sorted(Path(folder).rglob("*.xplane.pb"))
        found = jax.profiler.ProfileData.from_file(str(files[0])) if files else None
        spent, calls = _added(_instructions(found), steps)
    if not spent:
        raise UserError("JAX's profiler saw no instruction here: leave --profile out")
    return spent, calls


def _instructions(found: jax.profiler.ProfileData | None) -> Iterable[tuple[str, float]]:
    """(name, nanoseconds) of each one that ran."""
    for plane in found.planes if found else ():
        for line in plane.lines:
            if line.name == "XLA Ops" or line.name.startswith("tf_XLA"):
                for event in line.events:
                    if not _EXECUTES.search(event.name):
                        yield event.name, event.duration_ns


def _added(found: Iterable[tuple[str, float]], steps: int) -> tuple[Spent, Spent]:
    spent: Spent = collections.defaultdict(float)
    calls: Spent = collections.defaultdict(float)
    for name, nanoseconds in found:
        short = _NUMBER.sub("", name)
        spent[short] += nanoseconds / 1e6 / steps
        calls[short] += 1 / steps
    return spent, calls


def kind_of(name: str) -> str:
    """Which of KINDS an instruction counts as."""
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            return kind
    return ELSE


def by_kind(spent: Spent) -> Spent:
    """Milliseconds by KINDS, the most first."""
    kinds: Spent = collections.defaultdict(float)
    for name, ms in spent.items():
        kinds[kind_of(name)] += ms
    return dict(_most(kinds))


def tables(title: str, run: Callable[[], object]) -> list[Table]:
    """The step's instructions by kind and by name. Threads are added up, beyond the step's time."""
    spent, calls = profile(run)
    whole = sum(spent.values())
    shares: list[tuple[Cell, ...]] = [
        (name, ms, 100 * ms / whole) for name, ms in by_kind(spent).items()
    ]
    most = _most(spent)
    names: list[tuple[Cell, ...]] = [(name, ms, calls[name]) for name, ms in most[:SHOWN]]
    if rest := most[SHOWN:]:
        total = sum(ms for _, ms in rest)
        names.append((f"{len(rest)} others", total, sum(calls[name] for name, _ in rest)))
    return [
        Table(f"{title}: instructions by kind", ("kind", "ms", "%"), shares),
        Table(f"{title}: instructions", ("instruction", "ms", "calls"), names),
    ]


def _most(spent: Spent) -> list[tuple[str, float]]:
    return sorted(spent.items(), key=lambda item: -item[1])
