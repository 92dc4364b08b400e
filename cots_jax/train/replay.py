# SPDX-License-Identifier: Apache-2.0
"""One logged step repeated from the checkpoint before it: how silent corruption is found."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from cots_jax import checkpoint
from cots_jax.errors import UserError, WrongUseError
from cots_jax.pretrained import CHECKPOINTS
from cots_jax.processes import entered_together
from cots_jax.schema import Config
from cots_jax.train.assemble import assembled
from cots_jax.train.logging import TIMES, read, to_line
from cots_jax.train.mesh import make_mesh, place, place_rows, whole
from cots_jax.train.resume import standing

FILE = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Replayed:
    """A step's numbers as they were logged and as they are now."""

    step: int
    since: int  # the step of the checkpoint
    logged: dict[str, Any]
    measured: dict[str, Any]

    @property
    def differing(self) -> list[str]:
        """Names whose values are not the same to the last digit."""
        names = {*self.logged, *self.measured}
        return sorted(n for n in names if self.logged.get(n) != self.measured.get(n))

    def in_words(self) -> str:
        """One line, and one for each number that differs."""
        head = f"step {self.step}, repeated from the checkpoint of step {self.since}: "
        if not self.differing:
            return f"{head}all {len(self.logged)} numbers are the same to the last digit"
        lines = [f"{head}{len(self.differing)} of {len(self.logged)} numbers differ"]
        for name in self.differing:
            lines.append(f"{name}: logged {self.logged.get(name)}, now {self.measured.get(name)}")
        return "\n".join(lines)


def step_of(text: str) -> int:
    """The step that `--replay` names. Raises WrongUseError."""
    if not text.isdigit() or not int(text):
        raise WrongUseError(f"--replay={text}: write the number of a logged step")
    return int(text)


def replay(config: Config, workdir: Path, step: int) -> Replayed:
    """Repeats the steps from the newest good checkpoint before `step` to it; writes nothing.

    Raises UserError where the step was not logged or no checkpoint before it is left.
    """
    logged = _logged(workdir, step)
    mesh = make_mesh(config.hardware)
    with entered_together(assembled(config, workdir, mesh)) as task:
        folder = workdir / CHECKPOINTS
        found = checkpoint.latest(folder, before=step)
        here = standing(config, task, found, workdir)
        state, frozen, batches = here.state, task.frozen(), here.batches(task)
        measured: dict[str, Any] = {}
        for number in range(here.step, step):
            batch = place_rows(next(batches), mesh, config.batch)
            knobs = place(task.knobs(number), whole(mesh))
            state, measured = task.step(state, frozen, batch, knobs)
        measured.pop("judged", None)
        host = {name: float(value) for name, value in jax.device_get(measured).items()}
        row = json.loads(to_line(step, task.logged(step, host)))
    return Replayed(step, here.step, logged, row)


def _logged(workdir: Path, step: int) -> dict[str, Any]:
    file = workdir / FILE
    rows = [row for row in read(file) if "loss" in row] if file.exists() else []
    for row in rows:
        if row["step"] == step:
            return {name: value for name, value in row.items() if name not in TIMES}
    near = sorted(rows, key=lambda row: abs(row["step"] - step))[:3]
    known = ", ".join(str(row["step"]) for row in near) or "none at all"
    raise UserError(f"{file} has no step {step} to compare with; nearest: {known}")
