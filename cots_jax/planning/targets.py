# SPDX-License-Identifier: Apache-2.0
"""The devices that a step is planned for: a row's own by their compiler, or stand-ins.

A row with a number is compiled for without touching any device. Where its compiler is not
installed, as many fake devices of the CPU stand in: FLOPs and collectives are the same program's,
but the CPU's compiler lays its memory out otherwise.
"""

import contextlib
import dataclasses
import os

import jax
from jax.sharding import Mesh

from cots_jax.chips import CHIPS, HOST, Chip, Maker
from cots_jax.errors import UserError
from cots_jax.planning.compilers import chips_in, chips_of, find_compiler, how_to_get, shape_of
from cots_jax.planning.silicon import SHAPES, SILICON
from cots_jax.schema import HardwareConfig
from cots_jax.switches import AttentionForm
from cots_jax.train.mesh import mesh_over

CUDNN = (
    "attention is planned as it is written out: cuDNN's kernel asks for its card, which would take "
    "less memory and traffic than this"
)


@dataclasses.dataclass(frozen=True)
class Target:
    """What is compiled for, and what of it is known."""

    mesh: Mesh
    chip: Chip | None  # None: a CPU, or a card that is not in the table
    compiler: str
    memory: int  # bytes that a program may use of one device; 0: not known
    hosts: int
    is_own: bool = True  # False: the CPU stands in for another kind
    notes: tuple[str, ...] = ()


def target_of(hardware: HardwareConfig, attainable: float | None = None) -> Target:
    """The devices of a row; of one without a number those of this machine.

    attainable: share of the peak, in the place of the table's. Raises UserError where there is no
    such slice of chips.
    """
    kind, _, count = hardware.row.partition("-")
    chip = CHIPS.get(kind)
    if chip and attainable:
        chip = dataclasses.replace(chip, attainable=attainable)
    if not count:
        return _local(hardware, chip)
    with contextlib.suppress(RuntimeError):  # an accelerator of this machine may be busy
        jax.config.update("jax_platforms", "cpu")
    if chip is None:
        return _stand_in(hardware, None)
    check_slice(kind, hardware.chips)
    compiler = find_compiler(chip.maker)
    if compiler is None:
        note = (
            f"no compiler for {chip.name} is here, so the CPU's stands in: its memory is not "
            f"{chip.name}'s; for that one {how_to_get(chip.maker)}"
        )
        return dataclasses.replace(_stand_in(hardware, chip), notes=(note,))
    devices = chips_of(compiler, kind, hardware.chips)
    mesh, hosts = mesh_over(devices, hardware), -(-hardware.chips // chip.host)
    asks_its_card = chip.maker is Maker.CUDA and hardware.attention is AttentionForm.FUSED
    notes = (CUDNN,) if asks_its_card else ()
    return Target(mesh, chip, compiler.version, chip.memory, hosts, notes=notes)


def _local(hardware: HardwareConfig, chip: Chip | None) -> Target:
    """The devices of this machine."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        if chip:
            raise UserError(
                f"no {chip.name} is here: say how many chips are meant, as in {hardware.row}-8"
            )
        return _stand_in(hardware, None)
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    memory = int(limit) or (chip.memory if chip else 0)
    mesh = mesh_over(jax.devices(), hardware)
    return Target(mesh, chip, f"XLA for {device.device_kind}", memory, jax.process_count())


def _stand_in(hardware: HardwareConfig, chip: Chip | None) -> Target:
    """Devices of the CPU, fake ones where the row has several; they share the machine's memory."""
    with contextlib.suppress(RuntimeError):  # devices are counted once a process
        jax.config.update("jax_num_cpu_devices", hardware.chips)
    devices = jax.devices("cpu")
    if len(devices) < hardware.chips:
        raise UserError(
            f"{hardware.row} needs {hardware.chips} devices and this process has {len(devices)}: "
            f"start it with XLA_FLAGS=--xla_force_host_platform_device_count={hardware.chips}"
        )
    mesh = mesh_over(devices[: hardware.chips], hardware)
    hosts = -(-hardware.chips // chip.host) if chip else 1
    memory = chip.memory if chip else _ram() // hardware.chips
    return Target(mesh, chip, "XLA for CPU", memory, hosts, is_own=chip is None)


def check_slice(kind: str, count: int) -> None:
    """Raises UserError where so many chips of a kind are not to be had in one piece."""
    if kind in SHAPES and shape_of(kind, count) is None:
        known = [chips_in(shape) for shape in SHAPES[kind]]
    elif kind in SILICON and count > HOST and count % HOST:
        known = [count // HOST * HOST, -(-count // HOST) * HOST]
    else:
        return
    near = sorted(sorted(known, key=lambda n: abs(n - count))[:2])
    raise UserError(
        f"there are no {count} {CHIPS[kind].name} in one piece: name "
        + " or ".join(f"{kind}-{n}" for n in near)
        + (f" (slices have {', '.join(map(str, known))} chips)" if kind in SHAPES else "")
    )


def _ram() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
