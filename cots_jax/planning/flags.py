# SPDX-License-Identifier: Apache-2.0
"""The command line of the plan door."""

import dataclasses
import math
from collections.abc import Sequence

from cots_jax.arguments import parse_arguments
from cots_jax.errors import WrongUseError, nearest
from cots_jax.planning.cost import Budget
from cots_jax.planning.targets import check_slice
from cots_jax.schema import Config

USAGE = (
    "usage: python -m cots_jax.plan --config=FILE[:names] [--config.KEY=value …] [--pairs=N] "
    "[--price_per_chip_hour=X] [--attainable=X] [--sweep[=BATCH,…]] [--json]"
)
HELP = f"""{USAGE}

Compiles the step of a config for its hardware row without having the hardware, and says whether it
fits, what it costs and what that rests on.

  --config=configs/pretrain.py:v5e-256   a config with a hardware row; without one: this machine
  --pairs=N                of a run, for chip-hours; 1e8 where it is not said
  --price_per_chip_hour=X  yours, in whatever money
  --attainable=X           share of the peak that products reach, in the place of the assumed one
  --sweep[=BATCH,…]        tries batches (half, the config's, twice it), meshes, recomputation and
                           pieces, and recommends; it compiles for each, which takes a while
  --json                   for scripts, on standard output"""
VALUED = ("--pairs", "--price_per_chip_hour", "--attainable", "--sweep")
BARE = ("--json", "--sweep")


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
    own: dict[str, str] = {}
    rest = []
    for flag in argv:
        name, equals, value = flag.partition("=")
        if name in VALUED and equals:
            own[name] = value
        elif flag in BARE:
            own[flag] = ""
        elif name.startswith("--config") or flag in ("-h", "--help"):
            rest.append(flag)
        else:
            known = ["--config", "--config.KEY", *VALUED, *BARE]
            raise WrongUseError(
                f"unknown flag {flag!r} (write --name=value); {nearest(name, set(known), 'flags')}"
            )
        if name == "--config":
            _check_rows(value)
    asks = {"-h", "--help"} & set(rest)
    config = parse_arguments(rest, HELP if asks else USAGE).config
    numbers = {name: _number(name, own[name]) for name in VALUED[:3] if name in own}
    budget = Budget(numbers.get("--pairs", 1e8), numbers.get("--price_per_chip_hour"))
    batches = _batches(own.get("--sweep"), config.batch)
    return PlanFlags(config, budget, numbers.get("--attainable"), batches, "--json" in own)


def _check_rows(spec: str) -> None:
    """Before the config divides its batch over chips that there are not."""
    for name in spec.partition(":")[2].split(","):
        kind, _, count = name.partition("-")
        if count.isdigit():
            check_slice(kind, int(count))


def _number(flag: str, text: str) -> float:
    most = 1.0 if flag == "--attainable" else math.inf
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
    if not text:
        return tuple(size for size in (batch // 2, batch, 2 * batch) if size)
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise WrongUseError(f"--sweep={text}: write batches, as in --sweep=1024,2048")
    return tuple(int(part) for part in parts)
