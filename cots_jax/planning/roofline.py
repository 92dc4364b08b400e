# SPDX-License-Identifier: Apache-2.0
"""How long a step takes at least: the slowest of three things that would run side by side."""

import dataclasses
from collections.abc import Sequence

from cots_jax.chips import Chip
from cots_jax.planning.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step, each as if nothing else took any."""

    products: float
    memory: float
    collectives: float

    @property
    def step(self) -> float:
        """The slowest: the others hide behind it."""
        return max(self.products, self.memory, self.collectives)

    @property
    def bound(self) -> str:
        """Which it is."""
        parts = dataclasses.asdict(self)
        return max(parts, key=lambda name: parts[name])


def times_of(chip: Chip, chips: int, flops: int, traffic: int, sent: Sequence[Collective]) -> Times:
    """flops: of a step on all chips; traffic: of one. Collectives come one after the other."""
    wire = dict.fromkeys((True, False), 0)
    for one in sent:
        wire[one.group <= chip.host or not chip.outer_link] += one.wire_a_step
    outer = wire[False] / chip.outer_link if wire[False] else 0.0
    return Times(
        products=flops / chips / (chip.attainable * chip.flops),
        memory=traffic / chip.bandwidth,
        collectives=wire[True] / chip.link + outer,
    )


def assumptions(chip: Chip) -> list[str]:
    """What the times rest on, in words."""
    beyond = f", {chip.outer_link / 1e9:g} beyond a host of {chip.host}" if chip.outer_link else ""
    return [
        f"products reach {chip.attainable:.0%} of {chip.flops / 1e12:g} TFLOP/s (assumed)",
        f"memory moves {chip.bandwidth / 1e9:,.0f} GB/s (the vendor's; all of it assumed)",
        f"a collective moves {chip.link / 1e9:g} GB/s into a chip by one ring{beyond} (assumed)",
        "the three hide behind each other, and reading data behind all of them",
    ]
