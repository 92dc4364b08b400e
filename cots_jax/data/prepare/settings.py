# SPDX-License-Identifier: Apache-2.0
"""What every source can be asked for."""

import pathlib
from dataclasses import dataclass
from typing import Any

from cots_jax.data.prepare.tasks import Task
from cots_jax.data.prepare.twins import Duplicates
from cots_jax.errors import UserError, WrongUseError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags that all sources share."""

    held_out: float = 0.05  # of the pictures; without effect where the source has splits
    longest_side: int = 256  # pixels
    name: str | None = None  # of the data set; None: that of the folder
    exclude: str | None = None  # FOLDER#SPLIT,…: prepared splits whose pictures are left out
    duplicates: Duplicates = Duplicates.KEEP
    task: Task | None = None  # a share of the source; None: all of it

    def check(self) -> None:
        """WrongUseError where a flag is out of its range."""
        if not 0 <= self.held_out < 1:
            raise WrongUseError(f"--held_out={self.held_out}: take a part from 0 to below 1")
        if not 8 <= self.longest_side <= 16384:
            raise WrongUseError(f"--longest_side={self.longest_side}: take 8 to 16384 pixels")

    def arguments(self) -> dict[str, Any]:
        """What of this decides over the records, for `dataset.json`."""
        found: dict[str, Any] = {"held_out": self.held_out, "longest_side": self.longest_side}
        # only where it says something: folders made before there was a choice are still the same
        if self.duplicates is not Duplicates.KEEP:
            found["duplicates"] = str(self.duplicates)
        return found

    def name_for(self, out: pathlib.Path) -> str:
        """The name of the data set that is written to `out`."""
        return self.name or out.resolve().name


def require_file(path: pathlib.Path, flag: str, example: str) -> None:
    """UserError where a flag does not name a file."""
    if not path.exists():
        raise UserError(f"--{flag}={path} does not exist")
    if not path.is_file():
        raise UserError(f"--{flag}={path} is no file: give {example}")
