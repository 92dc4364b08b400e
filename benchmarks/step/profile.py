# SPDX-License-Identifier: Apache-2.0
"""Where a step's time goes: ours by XLA's instructions, the peer's by PyTorch's operators."""

import collections
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import torch

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
PEER_KINDS = {
    "products": ("aten::mm", "addmm", "bmm", "attention", "convolution"),
    "copies": ("copy_", "aten::cat"),
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


def peer_profile(run: Callable[[], object], steps: int = STEPS) -> tuple[Spent, Spent]:
    """(milliseconds a step, calls a step) by PyTorch's operator on a CPU, without what it calls."""
    run()
    watched = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=watched) as found:
        for _ in range(steps):
            run()
    spent: Spent = {}
    calls: Spent = {}
    for one in found.key_averages():
        spent[one.key] = one.self_cpu_time_total / 1e3 / steps
        calls[one.key] = one.count / steps
    return spent, calls


def kind_of(name: str, kinds: Mapping[str, Sequence[str]] = MappingProxyType(KINDS)) -> str:
    """Which of `kinds` an instruction counts as."""
    for kind, words in kinds.items():
        if any(word in name for word in words):
            return kind
    return ELSE


def by_kind(spent: Spent, kinds: Mapping[str, Sequence[str]] = MappingProxyType(KINDS)) -> Spent:
    """Milliseconds by `kinds`, the most first."""
    found: Spent = collections.defaultdict(float)
    for name, ms in spent.items():
        found[kind_of(name, kinds)] += ms
    return dict(_most(found))


def tables(title: str, run: Callable[[], object]) -> list[Table]:
    """The step's instructions by kind and by name. Threads are added up, beyond the step's time."""
    return _tables(title, "instruction", *profile(run), KINDS)


def peer_tables(title: str, run: Callable[[], object]) -> list[Table]:
    """The peer's operators by kind and by name."""
    return _tables(title, "operator", *peer_profile(run), PEER_KINDS)


def _tables(
    title: str, what: str, spent: Spent, calls: Spent, kinds: Mapping[str, Sequence[str]]
) -> list[Table]:
    whole = sum(spent.values())
    shares: list[tuple[Cell, ...]] = [
        (name, ms, 100 * ms / whole) for name, ms in by_kind(spent, kinds).items()
    ]
    most = _most(spent)
    names: list[tuple[Cell, ...]] = [(name, ms, calls[name]) for name, ms in most[:SHOWN]]
    if rest := most[SHOWN:]:
        total = sum(ms for _, ms in rest)
        names.append((f"{len(rest)} others", total, sum(calls[name] for name, _ in rest)))
    return [
        Table(f"{title}: {what}s by kind", ("kind", "ms", "%"), shares),
        Table(f"{title}: {what}s", (what, "ms", "calls"), names),
    ]


def _most(spent: Spent) -> list[tuple[str, float]]:
    return sorted(spent.items(), key=lambda item: -item[1])
