# SPDX-License-Identifier: Apache-2.0
"""The plan of a config: its step compiled for a target, and what can be read from that."""

import dataclasses
import math
import time

import jax
import jax.errors
import numpy as np

from cots_jax.config import check_rows
from cots_jax.errors import UserError
from cots_jax.models.two_stream import model_size
from cots_jax.planning.collectives import Collective, collectives_of
from cots_jax.planning.hlo import read_program
from cots_jax.planning.memory import Memory, argument_bytes, memory_of, wanted_by
from cots_jax.planning.roofline import Times, times_of
from cots_jax.planning.targets import Target
from cots_jax.planning.tokenizers import tokenizer_shapes
from cots_jax.planning.traffic import traffic_of
from cots_jax.schema import Config, HardwareConfig
from cots_jax.switches import AttentionForm, Contrast, Negatives, Remat, Task
from cots_jax.train.flops import count_flops
from cots_jax.train.planning import PlannedStep, planned_step

# CPU: buffers are laid out before LLVM sees the program, which never runs. GPU: without a card that
# could choose, XLA writes all products in Triton, and there ends the process on a failed check.
OPTIONS = {
    "cpu": {"xla_backend_optimization_level": 0},
    "gpu": {"xla_gpu_enable_triton_gemm": False},
}
STATE = ("parameters", "momentum towers", "optimizer", "queue")  # of the step's arguments


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What was read from the compiled program."""

    memory: Memory
    traffic: int  # bytes a step that a chip moves from and to its memory
    collectives: list[Collective]
    seconds: float  # that the compiler took


@dataclasses.dataclass(frozen=True)
class Work:
    """FLOPs of a step on all chips."""

    flops: int  # activations that are computed again included
    model_flops: int  # without them


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step on hardware. Bytes are of one chip unless they say otherwise."""

    config: Config
    target: Target
    parameters: int  # trained
    work: Work
    arguments: dict[str, int]
    batch_bytes: int  # of the whole batch, as it crosses to the chips
    compiled: Compilation | None  # None: the compiler has refused
    wanted: int  # bytes, as the compiler has it

    @property
    def fits(self) -> bool:
        """Whether the program is smaller than what it may use; of an unknown memory too."""
        return self.compiled is not None and self.wanted <= (self.target.memory or math.inf)

    @property
    def wanted_diagnosing(self) -> int:
        """Bytes while a diagnosis is made, whose steps are taken on a copy of the state."""
        return self.wanted + sum(self.arguments[name] for name in STATE)

    @property
    def times(self) -> Times | None:
        """None where the chip or the program is not known."""
        chip, found = self.target.chip, self.compiled
        if chip is None or found is None:
            return None
        # The CPU's program moves other bytes through other caches.
        traffic = found.traffic if self.target.is_own else 0
        chips = self.config.hardware.chips
        return times_of(chip, chips, self.work.flops, traffic, found.collectives)

    @property
    def columns(self) -> float:
        """Negatives of a row, in batches."""
        method = self.config.method
        own = method.negatives is Negatives.QUEUE_AND_BATCH
        if method.contrast is not Contrast.MOMENTUM:
            return 1.0
        return method.queue_length / self.config.batch + own


def check_config(config: Config) -> None:
    """Raises UserError, with the arithmetic, where batch, heads or task cannot be planned."""
    check_towers(config)
    check_rows(config)


def check_towers(config: Config) -> None:
    """Raises UserError where task or heads cannot be planned, whatever the batch."""
    if config.task is not Task.COTS:
        raise UserError(
            "an image tokenizer is small enough to be tried: plan is for the towers' step"
        )
    size, tensor = model_size(config.model, config.hardware), config.hardware.tensor
    for name, stack in (("image", size.vision.transformer), ("text", size.text.transformer)):
        if stack.heads % tensor:
            fits = [n for n in range(1, stack.heads + 1) if stack.heads % n == 0]
            raise UserError(
                f"the {stack.heads} heads of the {name} tower do not divide over tensor={tensor}: "
                f"use config.hardware.tensor of {', '.join(map(str, fits))}"
            )


def plan_step(config: Config, target: Target) -> Plan:
    """Counts, compiles and reads the step of a config. Raises UserError."""
    check_config(config)
    planned = planned_for(config, target)
    work = work_of(config, target)
    batch = jax.tree.leaves(planned.arguments[2])
    found = _compiled(planned, config.hardware.chips)
    wanted = found if isinstance(found, int) else found.memory.total
    return Plan(
        config,
        target,
        planned.parameters,
        work,
        argument_bytes(planned),
        sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in batch),
        None if isinstance(found, int) else found,
        wanted,
    )


def work_of(config: Config, target: Target) -> Work:
    """Counted in the jaxpr, with and without recomputation; attention as it is written out."""

    def count(hardware: HardwareConfig) -> int:
        planned = planned_for(dataclasses.replace(config, hardware=hardware), target)
        return count_flops(planned.step, *planned.arguments)

    hardware = dataclasses.replace(config.hardware, attention=AttentionForm.WRITTEN_OUT)
    flops = count(hardware)
    if hardware.remat is Remat.OFF:
        return Work(flops, flops)
    return Work(flops, count(dataclasses.replace(hardware, remat=Remat.OFF)))


def planned_for(config: Config, target: Target) -> PlannedStep:
    """The step of a config as shapes on a target's mesh."""
    tokenizer = tokenizer_shapes(config)
    sources = len(config.data.train.split(","))
    if tokenizer is None:
        return planned_step(config, target.mesh, sources=sources)
    return planned_step(config, target.mesh, tokenizer.config, tokenizer.params, sources)


def _compiled(planned: PlannedStep, chips: int) -> Compilation | int:
    """The program, or the bytes that it wants of a chip that has fewer."""
    begin, device = time.monotonic(), planned.step.mesh.devices.flat[0]
    try:
        options = OPTIONS.get(device.platform)
        step = jax.jit(planned.step, donate_argnums=0, compiler_options=options)
        compiled = step.lower(*planned.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = wanted_by(str(error), sum(argument_bytes(planned).values()))
        if not wanted:
            raise UserError(f"the compiler refuses the step: {_first_line(error)}") from error
        return wanted
    seconds = time.monotonic() - begin
    program = read_program(compiled.as_text() or "")
    memory = memory_of(planned, compiled)
    return Compilation(memory, traffic_of(program), collectives_of(program, chips), seconds)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
