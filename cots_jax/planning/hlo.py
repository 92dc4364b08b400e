# SPDX-License-Identifier: Apache-2.0
"""A compiled program, read from its text: instructions, and how often each of them runs.

XLA's own totals count the body of a loop once, and the layers of our towers are a loop.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# NAME = TYPE OPCODE(OPERANDS), ATTRIBUTES; a TYPE has no blank before a bracket that it opens.
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One array: its size, and whether it lies in a chip's main memory or in a faster one."""

    bytes: int
    is_main: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    result: tuple[Buffer, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Of the result."""
        return sum(buffer.bytes for buffer in self.result)

    def named(self, attribute: str) -> str:
        """The computation that an attribute names; empty where there is none."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else ""

    def called(self) -> list[str]:
        """Computations that run when it runs, but for a loop's condition."""
        names = _CALLED.findall(self.attributes)
        for branches in _BRANCHES.findall(self.attributes):
            names += [name.strip().removeprefix("%") for name in branches.split(",")]
        return names


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name, instructions of each in the order of the text."""

    computations: dict[str, Computation]
    entry: str

    def runs(self) -> Iterator["Run"]:
        """All instructions from the entry on, those inside fusions too; each as often as it runs.

        Of a conditional all branches run: an upper bound.
        """
        yield from self._runs(self.entry, 1, inside="")

    def _runs(self, name: str, times: int, inside: str) -> Iterator["Run"]:
        for instruction in self.computations.get(name, {}).values():
            yield Run(instruction, name, times, inside)
            count = self._trips(instruction) if instruction.opcode == "while" else 1
            within = inside or (instruction.name if instruction.opcode == "fusion" else "")
            if instruction.opcode in _SMALL:
                continue  # the operator of a reduction, not a part of the program
            for called in instruction.called():
                yield from self._runs(called, times * count, within)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs: as the compiler notes it, or the limit that its counter has."""
        noted = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if noted:
            return int(noted.group(1))
        condition = self.computations.get(loop.named("condition"), {})
        limits = [
            int(found.group())
            for one in condition.values()
            if one.opcode == "constant" and (found := _BITS.match(one.attributes))
        ]
        return max(limits, default=1)


_SMALL = ("all-reduce", "all-reduce-start", "reduce-scatter", "reduce", "scatter", "sort",
          "reduce-window", "select-and-scatter", "map")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """An instruction with its place: the computation, how often it runs, the fusion it is in."""

    instruction: Instruction
    computation: str
    times: int
    fusion: str


def read_program(text: str) -> Program:
    """Parses what `compiled.as_text()` gives."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is not None and (found := _LINE.match(line)):
            name, kind, opcode, rest = found.groups()
            is_root = line.lstrip().startswith("ROOT ")
            inner, attributes = _split(rest)
            operands = tuple(re.findall(r"%([\w.\-]+)", inner))
            if opcode in ("constant", "parameter"):
                attributes = inner
            current[name] = Instruction(name, opcode, buffers(kind), operands, attributes, is_root)
        elif head := _HEAD.match(line):
            current = computations.setdefault(head.group(2), {})
            entry = head.group(2) if head.group(1) else entry
    return Program(computations, entry)


def _split(rest: str) -> tuple[str, str]:
    """What stands in the bracket that is open, and what comes after it."""
    depth = 1
    for at, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return rest[:at], rest[at + 1 :]
    return rest, ""


@functools.cache
def buffers(kind: str) -> tuple[Buffer, ...]:
    """The arrays of a type, of a tuple all of them."""
    found = []
    for element, dims, layout in _ARRAY.findall(kind):
        bits = _bits(element)
        if bits is None:
            continue
        sizes = [int(size.lstrip("<=")) for size in dims.split(",") if size]
        found.append(Buffer(-(-math.prod(sizes) * bits // 8), "S(" not in layout))
    return tuple(found)


def _bits(element: str) -> int | None:
    """pred is a byte; c64 two floats; tokens and the like are nothing."""
    if element == "pred":
        return 8
    digits = _BITS.search(element)
    return int(digits.group()) if digits and element[0] in "fbsuc" else None
