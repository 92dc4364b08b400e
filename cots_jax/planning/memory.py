# SPDX-License-Identifier: Apache-2.0
"""What a step holds in the memory of a chip: arguments by part, the rest as the compiler has it."""

import dataclasses
import math
import re
from typing import Any

import jax
from jax.stages import Compiled

from cots_jax.chips import GIB
from cots_jax.errors import UserError
from cots_jax.train.planning import PlannedStep


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip."""

    arguments: dict[str, int]  # by part of the step's pytrees, as they are cut over the mesh
    layout: int  # what the compiler's layouts add to them
    temporaries: int  # activations, gradients and whatever else lives within a step
    results: int  # that do not take the place of an argument
    code: int

    @property
    def total(self) -> int:
        """All of it at once."""
        rest = self.layout + self.temporaries + self.results + self.code
        return sum(self.arguments.values()) + rest

    def parts(self) -> dict[str, int]:
        """Everything by name."""
        rest = {"layout": self.layout, "temporaries": self.temporaries}
        return {**self.arguments, **rest, "results": self.results, "code": self.code}


def memory_of(planned: PlannedStep, compiled: Compiled) -> Memory:
    """From the compiler's own analysis of the program."""
    found: Any = compiled.memory_analysis()
    if found is None:
        raise UserError("this backend's compiler tells nothing of memory: plan for another row")
    arguments = argument_bytes(planned)
    return Memory(
        arguments,
        found.argument_size_in_bytes - sum(arguments.values()),
        found.temp_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes,
        found.generated_code_size_in_bytes,
    )


def argument_bytes(planned: PlannedStep) -> dict[str, int]:
    """The part of a step's arguments that lies on one chip."""
    state, frozen, batch, knobs = planned.arguments
    method = state.method
    parts = {
        "parameters": state.params,
        "momentum towers": method.momentum_params if method else {},
        "optimizer": state.opt_state,
        "queue": method.queue if method else {},
        "image tokenizer": frozen,
        "batch": batch,
        "numbers": (state.step, state.skipped, method.filter if method else {}, knobs),
    }
    return {name: sum(map(_on_one_chip, jax.tree.leaves(tree))) for name, tree in parts.items()}


def _on_one_chip(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def wanted_by(message: str, held: int) -> int:
    """Bytes that a program wants which a compiler has refused for want of memory; 0: not that.

    libtpu refuses in one of two sentences: of all that is used, or of the temporaries alone, to
    which come the arguments' `held` bytes.
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return 0
    used = re.search(r"Used ([\d.]+)([KMGT]?) of", message)
    found = used or re.search(r"temporaries \(([\d.]+)([KMGT]?)\)", message)
    if not found:
        return 0
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[found.group(2)]
    return round(float(found.group(1)) * scale) + (0 if used else held)
