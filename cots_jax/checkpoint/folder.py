# SPDX-License-Identifier: Apache-2.0
"""The names in a folder of checkpoints, and which of them stay. One process writes here."""

import dataclasses
import re
import shutil
from pathlib import Path

from cots_jax import manifest
from cots_jax.errors import UserError

FOLDER = "checkpoints"  # within a training folder
BEST = "best"  # beside it: towers and heads of the step with the best held-out recall
CLAIM = re.compile(r"(\d+)(\.replaced)?")  # names of folders that may hold a whole checkpoint


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints outlive a save: the newest few, the best by the caller's measure, and those
    of every so many steps."""

    last: int = 3
    best: int | None = None  # its step
    every: int | None = None  # steps

    def __post_init__(self) -> None:
        if self.last < 1:
            raise UserError(f"keep.last = {self.last} keeps nothing: use 1 or more")

    def names(self, steps: set[int]) -> set[int]:
        """Those of these steps that stay."""
        newest = sorted(steps)[-self.last :]
        often = [step for step in steps if self.every and step % self.every == 0]
        return {*newest, *often, *(step for step in steps if step == self.best)}


@dataclasses.dataclass(frozen=True)
class Damage:
    """A checkpoint that may not be used, and why."""

    step: int
    path: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Found:
    """The newest good checkpoint, with the newer ones that had to be passed over."""

    step: int
    path: Path
    damaged: tuple[Damage, ...] = ()


def candidates(folder: Path) -> list[Found]:
    """Every folder that claims to be a checkpoint, newest first; nothing is checked yet."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := CLAIM.fullmatch(path.name):
            found.append(Found(int(match[1]), path))
    return sorted(found, key=lambda one: (one.step, one.path.suffix == ""), reverse=True)


def staging_of(folder: Path, step: int) -> Path:
    """Where a step is written until it is whole."""
    return folder / f"{step}.saving"


def clean(folder: Path) -> None:
    """Removes what killed saves have left."""
    for suffix in ("saving", "deleted"):
        for leftover in folder.glob(f"*.{suffix}"):
            shutil.rmtree(leftover)


def publish(folder: Path, step: int) -> None:
    """Gives a finished checkpoint its name; an older one of that name is good until then."""
    final = folder / str(step)
    replaced = final.with_name(f"{final.name}.replaced")
    if final.exists():
        _delete(replaced)
        final.rename(replaced)
    staging_of(folder, step).rename(final)
    manifest.sync(folder)
    _delete(replaced)


def retire(folder: Path, step: int, keep: Keep) -> None:
    """Deletes what `keep` does not name, now that `step` is saved."""
    there = candidates(folder)
    for later in (one for one in there if one.step > step):
        put_aside(later.path)
    kept = keep.names({one.step for one in there if one.step <= step})
    for old in (one for one in there if one.step <= step):
        superseded = old.path.name != str(old.step) and (folder / str(old.step)).exists()
        if superseded or old.step not in kept:
            _delete(old.path)


def put_aside(path: Path) -> None:
    """Takes the name away from a checkpoint that a run does not go on from."""
    step = path.name.partition(".")[0]
    aside = path.with_name(f"{step}.aside")
    _delete(aside)
    path.rename(aside)


def _delete(path: Path) -> None:
    """Takes the name away first: half a checkpoint never goes by the name of a whole one."""
    if path.exists():
        doomed = path.with_name(f"{path.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)
