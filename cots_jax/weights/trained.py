# SPDX-License-Identifier: Apache-2.0
"""Towers on disk: the best or newest checkpoint of a training folder, or an exported folder."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cots_jax import checkpoint, manifest
from cots_jax.errors import UserError
from cots_jax.models.two_stream import Params
from cots_jax.switches import Task, Towers
from cots_jax.weights.exported import ExportedFolder, is_exported, open_exported


@dataclasses.dataclass(frozen=True)
class TrainedFolder:
    """Towers in a checkpoint. facts: its config, tokenizer, preprocessing and lineage; identity:
    what tells it from any other, in JSON."""

    path: Path
    step: int
    facts: dict[str, Any]
    identity: dict[str, Any]

    @property
    def folder(self) -> Path:
        """That which `--model` names."""
        return self.path.resolve().parents[1]

    def towers(self, which: Towers) -> Params:
        """{"image", "text"} as NumPy. Raises UserError where the run has none of that kind."""
        towers = checkpoint.restore(self.path, "towers")
        if which not in towers:
            raise UserError(f"{self.path} has no {which} towers: take {', '.join(towers)}")
        return towers[which]

    def heads(self) -> Params:
        """The masked heads, and a learned temperature."""
        return checkpoint.restore(self.path, "heads")


Trained = TrainedFolder | ExportedFolder


def started_from(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The published weights that a run, or the runs before it, began with.

    Facts that are older than the entry know those of their own run alone.
    """
    init = facts["config"].get("init_from", {})
    return tuple(facts.get("started_from", filter(None, (init.get("image"), init.get("text")))))


def find_trained(folder: Path) -> Trained:
    """Of a training folder the best checkpoint where the run has kept one, else the newest good
    one. No arrays are loaded. Raises UserError where there is none.
    """
    if is_exported(folder):
        return open_exported(folder)
    found = checkpoint.latest(folder / checkpoint.BEST) or newest(folder)
    facts = checkpoint.read_fact(found.path, "facts")
    task = facts["config"].get("task", Task.COTS)
    if task != Task.COTS:
        raise UserError(f"{folder} holds a {task} run, not a retrieval model")
    # Read now: a training that goes on may remove this checkpoint.
    manifested = (found.path / manifest.NAME).read_bytes()
    identity = {"step": found.step, "checkpoint": hashlib.sha256(manifested).hexdigest()}
    return TrainedFolder(found.path, found.step, facts, identity)


def newest(folder: Path) -> checkpoint.Found:
    """The newest good checkpoint of a training folder. Raises UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"there is no training folder {folder}")
    found = checkpoint.latest(folder / checkpoint.FOLDER)
    if found is None:
        raise UserError(f"{folder} holds no good checkpoint: train first, or name another folder")
    return found
