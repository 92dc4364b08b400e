# SPDX-License-Identifier: Apache-2.0
"""A plan in words, and as JSON."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from cots_jax.planning.collectives import Collective
from cots_jax.planning.cost import Budget, Cost, cost_of
from cots_jax.planning.planner import Plan
from cots_jax.planning.roofline import assumptions
from cots_jax.planning.sweep import Tried, best_of


def as_json(plan: Plan, budget: Budget) -> dict[str, Any]:
    """Everything that the table says. Bytes are of one chip, FLOPs of all chips."""
    config, target, found = plan.config, plan.target, plan.compiled
    hardware = config.hardware
    cost, times = cost_of(plan, budget), plan.times
    return {
        "config": config.name,
        "row": hardware.row,
        "mesh": dict(target.mesh.shape),
        "compiler": target.compiler,
        "compiled_for_the_chip": target.is_own,
        "notes": list(target.notes),
        "batch": config.batch,
        "accumulate": hardware.accumulate,
        "remat": str(hardware.remat),
        "attention": str(hardware.attention),
        "queue_length": config.method.queue_length,
        "columns_in_batches": plan.columns,
        "parameters": plan.parameters,
        "flops": plan.work.flops,
        "model_flops": plan.work.model_flops,
        "fits": plan.fits,
        "memory": {
            "usable": target.memory,
            "wanted": plan.wanted,
            "wanted_diagnosing": plan.wanted_diagnosing,
            "parts": found.memory.parts() if found else plan.arguments,
        },
        "traffic": found.traffic if found and target.is_own else None,
        "collectives": _grouped(found.collectives) if found else None,
        "seconds": dataclasses.asdict(times) | {"step": times.step} if times else None,
        "bound_by": times.bound if times else None,
        "assumptions": assumptions(target.chip) if target.chip else [],
        "cost": dataclasses.asdict(cost) if cost else None,
        "compile_seconds": found.seconds if found else None,
    }


def _grouped(found: Iterable[Collective]) -> list[dict[str, Any]]:
    """Collectives of a kind over groups of a size, together."""
    groups: dict[tuple[str, int], list[Collective]] = collections.defaultdict(list)
    for one in found:
        groups[one.kind, one.group].append(one)
    return [
        {
            "kind": kind,
            "group": group,
            "count": sum(one.times for one in members),
            "wire_bytes": sum(one.wire_a_step for one in members),
        }
        for (kind, group), members in groups.items()
    ]


def in_words(plan: Plan, budget: Budget) -> str:
    """The table."""
    config, hardware, target = plan.config, plan.config.hardware, plan.target
    shape = " x ".join(f"{name}={size}" for name, size in target.mesh.shape.items())
    a_chip = config.batch / (hardware.chips // hardware.tensor)
    compiled = plan.compiled
    took = f" in {compiled.seconds:.0f} s" if compiled else ""
    lines = [
        f"{hardware.row}: {hardware.chips} chips, {shape}; {target.compiler}{took}",
        f"{config.model}, batch {config.batch:,}: {a_chip:g} pairs a chip in "
        f"{hardware.accumulate} piece{'s' * (hardware.accumulate > 1)}, {hardware.precision}, "
        f"remat {hardware.remat}, attention {hardware.attention}; "
        f"negatives of {plan.columns:.3g} batches",
        *target.notes,
        "",
        *_memory(plan),
        "",
        *_work(plan),
        *_costs(cost_of(plan, budget), budget.pairs),
    ]
    return "\n".join(lines)


def _memory(plan: Plan) -> list[str]:
    parts = plan.compiled.memory.parts() if plan.compiled else plan.arguments
    usable, wanted = plan.target.memory, plan.wanted
    shown = {name: size for name, size in parts.items() if abs(size) >= wanted / 1000}
    rest = sum(parts.values()) - sum(shown.values())
    lines = [_row(name, size) for name, size in ({**shown, "the rest": rest}).items()]
    if not plan.compiled:
        lines.append("  and what the compiler does not tell of a program that it refuses")
    lines.append(_row("in all", wanted))
    if not usable:
        return ["memory of a chip", *lines]
    gap = f"{_bytes(abs(usable - wanted))} {'free' if plan.fits else 'too much'}"
    said = f"{'fits' if plan.fits else 'DOES NOT FIT'}: {_bytes(wanted)} of {_bytes(usable)}, {gap}"
    diagnosing = plan.wanted_diagnosing
    if plan.fits and diagnosing > usable:
        said += (
            "\n  but DOES NOT FIT while it is diagnosed, on a copy of the state: "
            f"{_bytes(diagnosing)}; set config.diagnose_every=200% to train without"
        )
    return ["memory of a chip", *lines, said]


def _work(plan: Plan) -> list[str]:
    chips, found, times = plan.config.hardware.chips, plan.compiled, plan.times
    work, again = plan.work, plan.work.flops / plan.work.model_flops - 1
    lines = [
        f"{_flop(work.flops)} a step, {_flop(work.flops / chips)} a chip; "
        f"{_flop(work.model_flops / plan.config.batch)} a pair"
        + (f" and {again:.0%} more for activations computed again" if again > 0 else "")
    ]
    if found is None:
        return lines
    if plan.target.is_own:
        lines.append(f"{_decimal(found.traffic)} a step from and to a chip's memory")
    sent = sum(one.wire_a_step for one in found.collectives)
    lines.append(f"{_decimal(sent)} a step into each chip from the others" + ":" * bool(sent))
    lines += [
        f"  {one['count']:>5} {one['kind']} of {one['group']}: {_decimal(one['wire_bytes'])}"
        for one in _grouped(found.collectives)
    ]
    if times is None or plan.target.chip is None:
        return [*lines, "", "of this device no peak is known: time a few steps instead"]
    alone = {"products": times.products, "memory": times.memory, "collectives": times.collectives}
    each = ", ".join(f"{name} {1e3 * seconds:,.1f}" for name, seconds in alone.items())
    return [
        *lines,
        "",
        f"predicted {1e3 * times.step:,.1f} ms a step, bound by {times.bound} (ms: {each})",
        *(f"  {line}" for line in assumptions(plan.target.chip)),
    ]


def _costs(cost: Cost | None, pairs: float) -> Sequence[str]:
    if cost is None:
        return []
    return [
        f"{cost.pairs_per_second:,.0f} pairs/s; each host sends "
        f"{_decimal(cost.host_bytes_per_second)}/s to its chips, of "
        f"{cost.host_pairs_per_second:,.0f} pairs/s",
        f"{pairs:,.0f} pairs: {cost.hours:,.1f} hours, {cost.chip_hours:,.1f} chip-hours"
        + (f", {cost.money:,.0f} at your price" if cost.money is not None else ""),
    ]


def _row(name: str, size: int) -> str:
    return f"  {name:<18}{_bytes(size):>12}"


def _bytes(size: int | float) -> str:
    """In the largest binary unit of which there is one."""
    return _scaled(size, 1024, ("bytes", "KiB", "MiB", "GiB", "TiB"))


def _scaled(value: int | float, step: int, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= step and power < len(units) - 1:
        value, power = value / step, power + 1
    return f"{value:.{2 if power else 0}f} {units[power]}"


def _flop(count: int | float) -> str:
    return _scaled(count, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def _decimal(size: int | float) -> str:
    return _scaled(size, 1000, ("bytes", "kB", "MB", "GB", "TB"))


def tried_in_words(one: Tried) -> str:
    """A line of a sweep."""
    choice, plan = one.choice, one.plan
    memory = f"{_bytes(plan.wanted)} of {_bytes(plan.target.memory)}"
    times = plan.times
    took = f"{1e3 * times.step:,.0f} ms, {one.pairs_per_second:,.0f} pairs/s" if times else ""
    return (
        f"batch {choice.batch:,} fsdp={choice.fsdp} tensor={choice.tensor} "
        f"remat={choice.remat} accumulate={choice.accumulate}: {memory}, "
        + (f"fits {took}".rstrip() if plan.fits else "does not fit")
    )


def sweep_in_words(tried: Sequence[Tried]) -> str:
    """What is recommended, for each batch."""
    lines = []
    for batch in dict.fromkeys(one.choice.batch for one in tried):
        best = best_of(tried, batch)
        lines.append(
            f"batch {batch:,}: {best.choice.flags()}" if best else f"batch {batch:,}: nothing fits"
        )
    fitting = [one for one in tried if one.plan.fits]
    if fitting:
        best = max(fitting, key=lambda one: one.pairs_per_second)
        lines += ["", "recommended:", "  " + tried_in_words(best), f"  {best.choice.flags()}"]
    return "\n".join(lines)


def sweep_as_json(tried: Sequence[Tried], budget: Budget) -> dict[str, Any]:
    """All plans, and what is recommended for each batch."""
    batches = dict.fromkeys(one.choice.batch for one in tried)
    best = {batch: best_of(tried, batch) for batch in batches}
    return {
        "tried": [as_json(one.plan, budget) for one in tried],
        "recommended": {
            str(batch): found.choice.flags() if found else None for batch, found in best.items()
        },
    }
