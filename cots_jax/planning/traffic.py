# SPDX-License-Identifier: Apache-2.0
"""Bytes that a compiled step moves between a chip and its main memory.

Each instruction that runs reads its operands and writes its result, a fusion as one; what lies in
a faster memory is left out, and of a stack that a loop takes slices of only the slices count. As
XLA's own cost analysis has it, but for loops, which that one counts once.
"""

from collections.abc import Iterator

from cots_jax.planning.hlo import Buffer, Computation, Instruction, Program

# They move nothing, or what they call does.
FREE = frozenset(
    ["parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
     "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier",
     "optimization-barrier", "async-done", "async-update", "add-dependency"]
)  # fmt: skip
SLICES = ("dynamic-slice", "slice", "gather")


def traffic_of(program: Program) -> int:
    """Bytes a step of one chip."""
    total = 0
    for run in program.runs():
        if run.fusion or run.instruction.opcode in FREE or run.instruction.opcode.endswith("-done"):
            continue
        around = program.computations[run.computation]
        total += run.times * sum(_moved(run.instruction, around, program))
    return total


def _moved(one: Instruction, around: Computation, program: Program) -> Iterator[int]:
    inside = program.computations.get(one.named("calls"), {}) if one.opcode == "fusion" else {}
    operands = [around[name].result for name in one.operands if name in around]
    if one.opcode in SLICES:
        yield 2 * _main(one.result)
    elif one.opcode == "dynamic-update-slice":
        yield 2 * _main(operands[1])  # the rest stays where it is
    elif one.opcode.endswith("-start"):
        ends = one.result[:2]  # what is copied, perhaps out of something larger, and its copy
        yield min(end.bytes for end in ends) * sum(end.is_main for end in ends)
    elif inside:
        yield from _of_fusion(one, operands, inside)
    else:
        yield _main(one.result)
        yield from map(_main, operands)


def _of_fusion(
    one: Instruction, operands: list[tuple[Buffer, ...]], inside: Computation
) -> Iterator[int]:
    parameters = {
        int(line.attributes): line.name for line in inside.values() if line.opcode == "parameter"
    }
    for number, operand in enumerate(operands):
        name = parameters.get(number, "")
        users = [line for line in inside.values() if name in line.operands]
        sizes = [_seen_by(user, name, inside) for user in users]
        yield min(_main(operand), sum(sizes)) if users else 0
    yield from _written(one, inside)


def _seen_by(user: Instruction, name: str, inside: Computation) -> int:
    """How much of an operand one instruction of a fusion looks at."""
    if user.opcode in SLICES and user.operands[0] == name:
        return user.bytes
    if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        return 0
    return inside[name].bytes


def _written(one: Instruction, inside: Computation) -> Iterator[int]:
    """The results, of one that is updated in place only the update."""
    root = next((line for line in inside.values() if line.is_root), None)
    if root is None:
        yield _main(one.result)
        return
    names = root.operands if root.opcode == "tuple" else (root.name,)
    for name, buffer in zip(names, one.result):
        line = inside.get(name)
        while line is not None and line.opcode == "bitcast":
            line = inside.get(line.operands[0])
        if line is not None and line.opcode == "dynamic-update-slice":
            update = inside.get(line.operands[1])
            yield update.bytes if update and buffer.is_main else 0
        else:
            yield _main((buffer,))


def _main(found: tuple[Buffer, ...]) -> int:
    return sum(buffer.bytes for buffer in found if buffer.is_main)
