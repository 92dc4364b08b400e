# SPDX-License-Identifier: Apache-2.0
"""What the chips of a compiled step send to each other."""

import dataclasses
import math
import re

from cots_jax.planning.hlo import Computation, Instruction, Program, Run

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program. Bytes are of one chip and one run."""

    kind: str
    payload: int  # the whole array that a group works on: gathered, reduced or exchanged
    group: int  # chips
    times: int  # in a step
    op: str  # of the program it was made for

    @property
    def wire(self) -> int:
        """Bytes that come into a chip, and as many leave it, when a ring does it."""
        passes = 2 if self.kind == "all-reduce" else 1
        share = 1.0 if self.kind == "collective-permute" else (self.group - 1) / self.group
        return round(passes * self.payload * share)

    @property
    def wire_a_step(self) -> int:
        """Of all its runs."""
        return self.wire * self.times


def collectives_of(program: Program, chips: int) -> list[Collective]:
    """All of them, the largest first.

    A channel is counted once: an overlapped collective stands in each fusion that it passes.
    """
    found: dict[str, Collective] = {}
    for run in program.runs():
        kind = run.instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        channel = re.search(r"channel_id=(\d+)", run.instruction.attributes)
        key = channel.group(1) if channel else run.instruction.name
        one = _read(kind, run, program.computations[run.computation], chips)
        if one.group > 1 and key not in found:
            found[key] = one
    return sorted(found.values(), key=lambda one: -one.wire_a_step)


def _read(kind: str, run: Run, around: Computation, chips: int) -> Collective:
    instruction = run.instruction
    group = _group(instruction, chips)
    size = sum(around[name].bytes for name in instruction.operands if name in around)
    if kind == "all-gather":
        size *= group
    # libtpu writes a reduce-scatter as a sum of which each chip keeps its part.
    if kind == "all-reduce" and run.computation.removeprefix("%").startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    op = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return Collective(kind, size, group, run.times, op.group(1) if op else "")


def _group(instruction: Instruction, chips: int) -> int:
    """Chips of a group, in any of the three notations of `replica_groups`."""
    text = instruction.attributes
    if instruction.opcode.startswith("collective-permute"):
        return chips
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh.group(1)))
        used = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh.group(2))
        return math.prod(int(part or sizes[axis]) for axis, part in used)
    listed = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
    if listed:
        return int(listed.group(2))
    first = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    return len(first.group(1).split(",")) if first else chips
