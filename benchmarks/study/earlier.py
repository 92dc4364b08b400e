# SPDX-License-Identifier: Apache-2.0
"""Runs of an earlier study, by the study.json that it left: their results count, they are not made.

So a seed can be added where the first ones were run on another day, and a study whose folders are
gone can be gone on with. A run is taken where it was made by the command that would be run now. Of
an arm that was given another's time the number of steps is a measurement of its day, so that it may
differ there.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.findings import RunRow
from benchmarks.study.runs import Run
from cots_jax.errors import UserError

Earlier = dict[tuple[str, int], RunRow]  # by arm and seed


def earlier_runs(files: Sequence[str], runs: Sequence[Run]) -> Earlier:
    """What the files have of these runs; the first file that has one. Raises UserError."""
    found: Earlier = {}
    for file in files:
        try:
            stored = json.loads(Path(file).read_text("utf-8"))["runs"]
            rows = {row["run"]: RunRow(**row) for row in stored}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is no study.json of an earlier study: {error!r}") from error
        for run in runs:
            row = rows.get(run.folder.name)
            if row and _made_alike(row, run):
                found.setdefault((run.arm.name, run.seed), row)
    return found


def _made_alike(row: RunRow, run: Run) -> bool:
    commands = row.command, " ".join(["python -m", *run.training])
    alike = [command.partition(" --workdir=")[0] for command in commands]
    if run.arm.as_long_as:
        alike = [re.sub(r"--config\.duration=\d+ steps", "", command) for command in alike]
    return alike[0] == alike[1]
