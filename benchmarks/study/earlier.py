# SPDX-License-Identifier: Apache-2.0
"""Runs of an earlier study, by the study.json that it left: their results count, they are not made.

So a seed can be added where the first ones were run on another day, and a study whose folders are
gone can be gone on with. A run is taken where it was made by the command that would be run now. Of
an arm that was given another's time the number of steps is a measurement of its day, so that it may
differ there.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.findings import DURATION, RunRow, unquoted
from benchmarks.study.runs import Run
from cots_jax.data.specs import read_sources
from cots_jax.errors import UserError

Earlier = dict[tuple[str, int], RunRow]  # by arm and seed


def earlier_runs(files: Sequence[str], runs: Sequence[Run], data: str = "") -> Earlier:
    """What the files have of these runs; the first file that has one. Raises UserError.

    data: FOLDER#SPLIT,… that this study evaluates on, so that no other set's figures are taken
    over; nothing for all of them.
    """
    wanted = {source.split for source in read_sources(data, "--data")}
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
                kept = {k: v for k, v in row.results.items() if k in wanted or not wanted}
                row = dataclasses.replace(row, results=kept)
                found.setdefault((run.arm.name, run.seed), row)
    return found


def _made_alike(row: RunRow, run: Run) -> bool:
    commands = row.command, run.command
    alike = [unquoted(command).partition(" --workdir=")[0] for command in commands]
    if run.arm.as_long_as:
        alike = [DURATION.sub("", command) for command in alike]
    return alike[0] == alike[1]
