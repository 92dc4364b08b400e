# SPDX-License-Identifier: Apache-2.0
"""Saving: first the arrays off the devices, then everything to the disk, a name last."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from cots_jax import manifest
from cots_jax.checkpoint import quietly
from cots_jax.checkpoint.folder import Keep, candidates, clean, publish, retire, staging_of
from cots_jax.errors import UserError
from cots_jax.processes import refuse_together


def save(
    folder: Path,
    step: int,
    trees: Mapping[str, PyTree],
    facts: Mapping[str, object],
    *,
    keep: Keep,
) -> Path:
    """Writes `folder/step` and deletes what `keep` does not name; returns when it is on the disk.

    trees: arrays, sharded ones too, scalars, None and empty containers; typed PRNG keys are not
        taken. Every process calls with its shards, on a folder that all of them see.
    facts: values that JSON holds exactly; NaN is a ValueError.
    A checkpoint of the same step is exchanged. Those of later steps, left by a run that was since
    resumed from before them, are renamed to `STEP.aside`.
    Raises UserError when the disk refuses; the checkpoints that were there stay as they are.
    """
    refusal = None
    try:
        _begun(folder, step, trees, facts, keep).finish()
    except UserError as error:
        refusal = error
    refuse_together(refusal)
    return folder / str(step)


class Saver:
    """Saves like `save`, one checkpoint at a time, while the run goes on.

    A refusal of the disk is raised by the next `save` or `wait`, in all processes.
    after: called when a checkpoint is on the disk, before the next one may begin.
    """

    def __init__(self, folder: Path, after: Callable[[], None] = lambda: None) -> None:
        self._folder, self._after = folder, after
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(
        self,
        step: int,
        trees: Mapping[str, PyTree],
        facts: Mapping[str, object],
        *,
        keep: Keep,
    ) -> None:
        """Returns when the arrays are copied, so that they may be donated."""
        self.wait()
        try:
            begun = _begun(self._folder, step, trees, facts, keep)
        except UserError as error:
            self._error = error
        else:
            self._thread = threading.Thread(target=self._finish, args=[begun], name="checkpoint")
            self._thread.start()

    def wait(self) -> None:
        """Waits until everything is on the disk. Raises UserError, as `save` does."""
        self.close()
        error, self._error = self._error, None
        if error is not None and not isinstance(error, UserError):
            raise error
        refuse_together(error)

    def close(self) -> None:
        """Waits until nothing is written any more; says nothing of how it went."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _finish(self, begun: "_Begun") -> None:
        try:
            begun.finish()
            self._after()
        except Exception as error:
            self._error = error


@dataclasses.dataclass(frozen=True)
class _Begun:
    """A checkpoint whose arrays are being written."""

    folder: Path
    step: int
    documents: Mapping[str, str]
    keep: Keep
    writes: contextlib.ExitStack  # left when all is written; raises what went wrong

    def finish(self) -> None:
        """Waits for the arrays; the first process adds the rest, and the name."""
        with _refusals_explained(self.folder, self.step):
            self.writes.close()
            if jax.process_index() != 0:
                return
            staging = staging_of(self.folder, self.step)
            for name, document in self.documents.items():
                (staging / f"{name}.json").write_text(document + "\n", encoding="utf-8")
            manifest.write(staging, {"step": self.step})
            publish(self.folder, self.step)
            retire(self.folder, self.step, self.keep)


def _begun(
    folder: Path, step: int, trees: Mapping[str, PyTree], facts: Mapping[str, object], keep: Keep
) -> _Begun:
    documents = {name: json.dumps(value, allow_nan=False) for name, value in facts.items()}
    storable = {name: jax.tree.map(_storable, tree) for name, tree in trees.items()}
    staging = staging_of(folder, step)
    with _refusals_explained(folder, step), contextlib.ExitStack() as opening:
        _prepare(folder, step)
        writers = opening.enter_context(quietly.writing())
        for name, tree in storable.items():
            arguments = ocp.args.PyTreeSave({"tree": tree})
            quietly.writer(writers).save(staging.absolute() / name, args=arguments)
        return _Begun(folder, step, documents, keep, opening.pop_all())


def _prepare(folder: Path, step: int) -> None:
    """An empty place to write to, made by the first process before any other looks."""
    refusal = None
    if jax.process_index() == 0:
        try:
            with _refusals_explained(folder, step):
                clean(folder)
                staging_of(folder, step).mkdir(parents=True)
        except UserError as error:
            refusal = error
    refuse_together(refusal)


def _storable(leaf: Any) -> Any:
    """Orbax takes no NumPy scalars, and no arrays without elements (nothing to store)."""
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return array if array.size else None


@contextlib.contextmanager
def _refusals_explained(folder: Path, step: int) -> Iterator[None]:
    """Turns a refusal of the disk, TensorStore's kind included, into a UserError."""
    try:
        yield
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        shutil.rmtree(staging_of(folder, step), ignore_errors=True)
        raise UserError(
            f"cannot save step {step} in {folder}: {reason} ({_left(folder)}); make room or make "
            "it writable, then start again"
        ) from error


def _refusal(error: Exception) -> str | None:
    """What the operating system said, through Python or TensorStore; None for other errors."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else None


def _left(folder: Path) -> str:
    """What a failed save has left: room on the disk, and the last checkpoint."""
    try:
        free = shutil.disk_usage(folder).free / 1e9
        steps = [candidate.step for candidate in candidates(folder)]
    except OSError:
        return "the folder cannot be opened"
    last = f"step {steps[0]} is still there" if steps else "nothing was saved before"
    return f"{free:.2f} GB free, {last}"
