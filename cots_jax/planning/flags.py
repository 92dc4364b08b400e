# SPDX-License-Identifier: Apache-2.0
"""The command line of the plan door."""

import argparse
import dataclasses
import math
from collections.abc import Sequence

from cots_jax.arguments import WrongUseError, parse_arguments
from cots_jax.planning.cost import Budget
from cots_jax.schema import Config

USAGE = """\
usage: python -m cots_jax.plan --config=FILE[:names] [--config.KEY=value …]
       [--pairs=N] [--price_per_chip_hour=X] [--attainable=X] [--sweep[=BATCH,…]] [--json]

Compiles the step of a config for its hardware row without having the hardware, and says whether it
fits, what it costs and what that rests on.

  --config=configs/pretrain.py:v5e-256   a config with a hardware row; without one: this machine
  --pairs=N                of a run, for chip-hours (1e8)
  --price_per_chip_hour=X  yours, in whatever money
  --attainable=X           share of the peak that products reach, in the place of the assumed one
  --sweep[=BATCH,…]        tries batches (half, the config's, twice it), meshes, recomputation and
                           pieces, and recommends; it compiles for each, which takes a while
  --json                   for scripts, on standard output
"""


@dataclasses.dataclass(frozen=True)
class PlanFlags:
    """What the user asked for."""

    config: Config
    budget: Budget
    attainable: float | None
    batches: tuple[int, ...]  # of a sweep; none: a plan of the config alone
    as_json: bool


def parse_flags(argv: Sequence[str]) -> PlanFlags:
    """Raises WrongUseError, or UserError from the config itself; --help leaves with 0."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--pairs", default="1e8")
    parser.add_argument("--price_per_chip_hour", default="")
    parser.add_argument("--attainable", default="")
    parser.add_argument("--sweep", nargs="?", const="around")
    parser.add_argument("--json", action="store_true")
    try:
        flags, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise WrongUseError(f"{error}; write --name=value") from error
    config = parse_arguments(rest, USAGE).config
    price, share = flags.price_per_chip_hour, flags.attainable
    return PlanFlags(
        config,
        Budget(
            _number("--pairs", flags.pairs),
            _number("--price_per_chip_hour", price) if price else None,
        ),
        _number("--attainable", share, most=1.0) if share else None,
        _batches(flags.sweep, config.batch),
        flags.json,
    )


def _number(flag: str, text: str, most: float = math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most or math.isinf(value):
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise WrongUseError(f"{flag}={text}: write a number above 0{limit}")
    return value


def _batches(text: str | None, batch: int) -> tuple[int, ...]:
    if text is None:
        return ()
    if text == "around":
        return tuple(size for size in (batch // 2, batch, 2 * batch) if size)
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise WrongUseError(f"--sweep={text}: write batches, as in --sweep=1024,2048")
    return tuple(int(part) for part in parts)
