# SPDX-License-Identifier: Apache-2.0
"""What compilers ask of chips that are not here: shapes of slices, what a driver reports."""

import dataclasses

# Shapes of the slices there are. One host has 2 x 2 chips; larger slices are whole hosts.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
DEEP = (
    *("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"),
    *("8x16x16", "16x16x16"),
)
SHAPES = {"v4": DEEP, "v5e": FLAT, "v5p": DEEP, "v6e": FLAT}


@dataclasses.dataclass(frozen=True)
class Silicon:
    """What XLA's compiler asks of a card that it cannot see; as the driver reports it."""

    name: str
    capability: int
    cores: int
    units: int  # float32 units a core
    shared: int  # bytes of shared memory a core
    shared_of_block: int  # that one block may opt in to
    cache: int  # bytes of L2
    clock: float  # GHz
    memory: int
    bandwidth: int


SILICON = {
    "a100": Silicon(
        name="NVIDIA A100-SXM4-80GB", capability=8, cores=108, units=64, shared=167_936,
        shared_of_block=166_912, cache=41_943_040, clock=1.41, memory=85_100_068_864,
        bandwidth=2_039_040_000_000,
    ),
    "h100": Silicon(
        name="NVIDIA H100 80GB HBM3", capability=9, cores=132, units=128, shared=233_472,
        shared_of_block=232_448, cache=52_428_800, clock=1.98, memory=84_942_979_072,
        bandwidth=3_352_320_000_000,
    ),
    "h200": Silicon(
        name="NVIDIA H200 141GB HBM3e", capability=9, cores=132, units=128, shared=233_472,
        shared_of_block=232_448, cache=52_428_800, clock=1.98, memory=151_397_597_184,
        bandwidth=4_800_000_000_000,
    ),
}  # fmt: skip
