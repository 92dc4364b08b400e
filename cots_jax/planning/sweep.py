# SPDX-License-Identifier: Apache-2.0
"""Tries batches, meshes, recomputation and pieces, and keeps what is fastest among what fits.

Pieces are doubled until the step fits, and other meshes than the config's tried where no choice of
recomputation fits at once. Each of these choices is tried always: where a step waits for memory,
computing activations again can be faster than fetching them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from cots_jax.errors import UserError
from cots_jax.planning.planner import Plan, check_config, check_towers, plan_step
from cots_jax.planning.targets import Target
from cots_jax.schema import Config
from cots_jax.switches import Remat

MOST_PIECES = 256


@dataclasses.dataclass(frozen=True)
class Choice:
    """A point of the sweep."""

    batch: int
    fsdp: int
    tensor: int
    remat: Remat
    accumulate: int

    def flags(self) -> str:
        """The overrides that choose it."""
        keys = {"batch": self.batch, "hardware.fsdp": self.fsdp, "hardware.tensor": self.tensor}
        keys |= {"hardware.remat": self.remat, "hardware.accumulate": self.accumulate}
        return " ".join(f"--config.{key}={value}" for key, value in keys.items())

    def of(self, config: Config) -> Config:
        """The config with it."""
        hardware = dataclasses.replace(
            config.hardware,
            fsdp=self.fsdp,
            tensor=self.tensor,
            remat=self.remat,
            accumulate=self.accumulate,
        )
        return dataclasses.replace(config, batch=self.batch, hardware=hardware)


@dataclasses.dataclass(frozen=True)
class Tried:
    """A choice and what came of it."""

    choice: Choice
    plan: Plan

    @property
    def pairs_per_second(self) -> float:
        """Predicted; 0 where it does not fit."""
        times = self.plan.times
        return self.choice.batch / times.step if times and self.plan.fits else 0.0


def sweep(
    config: Config,
    batches: Sequence[int],
    make_target: Callable[[Config], Target],
    say: Callable[[Tried], None],
    left_out: Callable[[str], None],
) -> list[Tried]:
    """All that was tried, in order; each is said as it comes, and each batch that is left out.

    Raises UserError where no batch is left, or the config cannot be planned with any.
    """
    check_towers(config)
    tried = []
    for batch in batches:
        refused, meshes = [], _meshes(config)
        for fsdp, tensor in meshes:
            first = Choice(batch, fsdp, tensor, Remat.OFF, 1)
            try:
                check_config(first.of(config))
            except UserError as error:
                refused.append(error)
                continue
            of_mesh = []
            for found in _of_mesh(config, first, make_target):
                say(found)
                of_mesh.append(found)
            tried += of_mesh
            if any(one.plan.fits and one.choice.accumulate == 1 for one in of_mesh):
                break  # other meshes would only save memory
        if len(refused) == len(meshes):
            left_out(f"left out: {refused[0]}")
    if not tried:
        raise UserError(
            f"none of the batches {', '.join(map(str, batches))} divides over "
            f"{config.hardware.chips} chips: name others, as in --sweep={config.hardware.chips * 8}"
        )
    return tried


def best_of(tried: Sequence[Tried], batch: int) -> Tried | None:
    """The fastest that fits, of a batch; where no time is predicted, the least changed."""
    fitting = [one for one in tried if one.plan.fits and one.choice.batch == batch]
    return max(fitting, key=lambda one: one.pairs_per_second, default=None)


def _meshes(config: Config) -> list[tuple[int, int]]:
    """(fsdp, tensor): that of the config, parameters cut over a host's chips, layers over two."""
    chips, own = config.hardware.chips, (config.hardware.fsdp, config.hardware.tensor)
    found = [own, (min(8, chips), 1), (1, 2)]
    return list(dict.fromkeys(one for one in found if chips % (one[0] * one[1]) == 0))


def _of_mesh(
    config: Config, first: Choice, make_target: Callable[[Config], Target]
) -> Iterator[Tried]:
    for remat in Remat:
        pieces = 1
        while pieces <= MOST_PIECES:
            choice = dataclasses.replace(first, remat=remat, accumulate=pieces)
            wanted = choice.of(config)
            try:
                check_config(wanted)
            except UserError:
                break  # it does not divide
            plan = plan_step(wanted, make_target(wanted))
            yield Tried(choice, plan)
            if plan.fits:
                break
            pieces = _next_pieces(plan, pieces)


def _next_pieces(plan: Plan, pieces: int) -> int:
    """At least twice as many; more where the temporaries are far too large."""
    room = plan.target.memory - sum(plan.arguments.values())
    over = (plan.wanted - sum(plan.arguments.values())) / max(room, 1)
    while over > 2 and pieces < MOST_PIECES:
        pieces, over = pieces * 2, over / 2
    return pieces * 2
