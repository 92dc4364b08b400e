# SPDX-License-Identifier: Apache-2.0
"""What is known of each chip, and what is assumed of it.

Peaks and bandwidths are as their vendors publish them. What a TPU program may use of the memory is
what libtpu's compiler grants it; of a GPU's, the share that JAX takes by default. The shares of the
peaks that a step attains are assumed, not measured (own choice; docs/reproduce.md has the same).
"""

import dataclasses
import enum

GIB = 2**30
HOST = 8  # cards of a host
GPU_SHARE = 0.75  # of its memory that JAX reserves, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set


class Maker(enum.StrEnum):
    """Whose compiler makes programs for a chip."""

    TPU = "tpu"
    CUDA = "cuda"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. Rates are a second."""

    name: str
    maker: Maker
    memory: int  # bytes that a program may use
    flops: float  # peak in bf16
    bandwidth: float  # bytes of its memory
    link: float  # bytes that a collective moves into a chip, and as many out of it
    attainable: float  # share of the peak that the products of a step attain
    host: int  # chips of a host
    outer_link: float = 0.0  # the same as `link` beyond one host; 0: as fast


def _tpu(name: str, gib: float, tflops: int, gigabytes: int, link: int) -> Chip:
    """link: of one direction of one axis of the torus, in GB; a ring goes both ways."""
    memory = round(gib * GIB)
    return Chip(name, Maker.TPU, memory, tflops * 1e12, gigabytes * 1e9, 2 * link * 1e9, 0.55, 4)


def _gpu(name: str, memory: int, tflops: int, gigabytes: int, link: int, network: int) -> Chip:
    """link: NVLink in one direction, network: a card's own, beyond a host; both in GB."""
    usable = round(GPU_SHARE * memory)
    rates = (tflops * 1e12, gigabytes * 1e9, link * 1e9)
    return Chip(name, Maker.CUDA, usable, *rates, 0.40, HOST, network * 1e9)


# Kind of a hardware row -> its chip.
CHIPS = {
    "v4": _tpu("TPU v4", 30.75, 275, 1228, 45),
    "v5e": _tpu("TPU v5e", 15.75, 197, 819, 45),
    "v5p": _tpu("TPU v5p", 95.74, 459, 2765, 90),
    "v6e": _tpu("TPU v6e", 31.25, 918, 1640, 90),
    "a100": _gpu("A100 SXM 80 GB", 85_100_068_864, 312, 2039, 300, 25),
    "h100": _gpu("H100 SXM 80 GB", 84_942_979_072, 989, 3352, 450, 50),
    "h200": _gpu("H200 SXM 141 GB", 151_397_597_184, 989, 4800, 450, 50),
}
