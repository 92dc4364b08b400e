# SPDX-License-Identifier: Apache-2.0
"""The newest good checkpoint, and its facts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cots_jax import manifest
from cots_jax.checkpoint.folder import CLAIM, Damage, Found, candidates
from cots_jax.errors import UserError


def latest(folder: Path, before: int | None = None) -> Found | None:
    """The newest checkpoint whose every file is as it was written; None where there is none at all.

    before: looks at those of earlier steps only.
    Damaged ones before it are reported in `Found.damaged` and left alone. In a run of several
    processes the first one looks and the others follow.
    Raises UserError when there are checkpoints and none of them is good: to start from nothing
    then is the user's decision.
    """
    if jax.process_count() == 1:
        return latest_here(folder, before)
    found, refusal = None, None
    if jax.process_index() == 0:
        try:
            found = latest_here(folder, before)
        except UserError as error:
            refusal = error
    nothing, refused = -1, -2
    verdict = refused if refusal else found.step if found else nothing
    step = int(multihost_utils.broadcast_one_to_all(np.int32(verdict)))
    if step == refused:
        raise refusal or UserError(f"no checkpoint in {folder} is whole: see the first process")
    return found if found or step == nothing else _candidate(folder, step)


def latest_here(folder: Path, before: int | None = None) -> Found | None:
    """`latest`, as this process alone finds it."""
    damaged = []
    for candidate in candidates(folder):
        if before is not None and candidate.step >= before:
            continue
        reason = verify(candidate.path)
        if reason is None:
            return dataclasses.replace(candidate, damaged=tuple(damaged))
        damaged.append(Damage(candidate.step, candidate.path, reason))
    if damaged:
        listing = "; ".join(f"{one.path.name}: {one.reason}" for one in damaged)
        raise UserError(
            f"no checkpoint in {folder} is whole ({listing}): "
            "bring one back from a copy, or move the folder away to start from nothing"
        )
    return None


def _candidate(folder: Path, step: int) -> Found:
    for candidate in candidates(folder):
        if candidate.step == step:
            return candidate
    raise UserError(
        f"process {jax.process_index()} does not see {folder / str(step)}, which the first process "
        "does: use a folder that all hosts share"
    )


def verify(path: Path) -> str | None:
    """Why this checkpoint may not be used, or None when every file is as it was written."""
    return _fault(path, "")


def _fault(path: Path, part: str) -> str | None:
    """A folder named by a step must be of that step; a copy under another name may be of any."""
    match = CLAIM.fullmatch(path.name)
    return manifest.fault(path, {"step": int(match[1])} if match else None, part)


def require(path: Path, part: str) -> None:
    """Raises UserError where the file or folder `part` is not as it was written."""
    if reason := _fault(path, part):
        raise UserError(f"the checkpoint {path} is damaged ({reason}): use another one")


def read_fact(path: Path, name: str) -> Any:
    """The JSON value saved under this name; UserError where it is damaged or was never saved."""
    require(path, f"{name}.json")
    file = path / f"{name}.json"
    if not file.is_file():
        raise UserError(f"the checkpoint {path} holds no {name}.json")
    return json.loads(file.read_text(encoding="utf-8"))
