# SPDX-License-Identifier: Apache-2.0
"""What a number of pairs costs at the predicted time of a step."""

import dataclasses

from cots_jax.planning.planner import Plan


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the user says of the run."""

    pairs: float
    price: float | None = None  # of a chip-hour, in whatever money


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a whole run; the rates while it runs."""

    pairs_per_second: float
    host_pairs_per_second: float  # that a host must read, decode and send
    host_bytes_per_second: float  # of them, decoded, as they cross to its chips
    hours: float
    chip_hours: float
    money: float | None  # None without a price


def cost_of(plan: Plan, budget: Budget) -> Cost | None:
    """None where no time is predicted."""
    times = plan.times
    if times is None:
        return None
    batch, hosts, chips = plan.config.batch, plan.target.hosts, plan.config.hardware.chips
    hours = budget.pairs / batch * times.step / 3600
    return Cost(
        pairs_per_second=batch / times.step,
        host_pairs_per_second=batch / times.step / hosts,
        host_bytes_per_second=plan.batch_bytes / times.step / hosts,
        hours=hours,
        chip_hours=hours * chips,
        money=None if budget.price is None else hours * chips * budget.price,
    )
