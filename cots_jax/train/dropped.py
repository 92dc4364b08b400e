# SPDX-License-Identifier: Apache-2.0
"""`dropped.jsonl`: the pairs that the filter has dropped, for a person to look at."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import flax.struct
import jax
from jaxtyping import Array, Bool, Float, Int

from cots_jax.data.pair_table import PairTable
from cots_jax.train.logging import cut_after, refusals_explained

FILE = "dropped.jsonl"


@flax.struct.dataclass
class Judged:
    """What the filter thought of a step's rows."""

    pair_id: Int[Array, "b"]
    dropped: Bool[Array, "b"]
    similarity: Float[Array, "b"]
    threshold: Float[Array, "b"]


class DroppedLog:
    """Appends a line a dropped pair: step, the user's id, caption, similarity and threshold.

    A step's rows are fetched while the next one runs. Like the metrics, lines after the step that
    a run goes on from are cut off and written again. There is no file before there is a pair to
    list. Raises UserError when the disk refuses.
    """

    def __init__(self, workdir: Path, resume_step: int, table: PairTable) -> None:
        self._table, self._path = table, workdir / FILE
        self._waiting: tuple[int, Judged] | None = None
        self._lines: TextIO | None = None
        with self._refusals_explained():
            cut_after(self._path, resume_step)

    def ask(self, step: int, judged: Judged) -> None:
        """Remembers a step's rows and writes those of the step before."""
        self.settle()
        self._waiting = step, judged

    def settle(self) -> None:
        """Writes what waits."""
        if self._waiting is None:
            return
        (step, judged), self._waiting = self._waiting, None
        found = jax.device_get(judged)
        lines = [self._line(step, row, found) for row in found.dropped.nonzero()[0].tolist()]
        with self._refusals_explained():
            if lines and self._lines is None:
                self._lines = self._path.open("a", encoding="utf-8")
            if self._lines is not None:
                self._lines.writelines(lines)

    def sync(self) -> None:
        """Waits until everything is on the disk; before a checkpoint that would outlive it."""
        self.settle()
        with self._refusals_explained():
            if self._lines is not None:
                self._lines.flush()
                os.fsync(self._lines.fileno())

    def close(self) -> None:
        """Closes the file; what waits is left to the run that goes on from the checkpoint."""
        with self._refusals_explained():
            if self._lines is not None:
                self._lines.close()

    def _line(self, step: int, row: int, found: Any) -> str:
        pair = int(found.pair_id[row])
        record = self._table.record(self._table.record_of_pair[pair])
        line: Mapping[str, Any] = {
            "step": step,
            "pair": pair,
            "id": record.id,
            "caption": record.captions[self._table.caption_of_pair[pair]],
            "source": self._table.sources[self._table.source_of_pair[pair]].folder,
            "similarity": float(f"{found.similarity[row]:.6g}"),
            "threshold": float(f"{found.threshold[row]:.6g}"),
        }
        return json.dumps(line, ensure_ascii=False) + "\n"

    def _refusals_explained(self) -> contextlib.AbstractContextManager[None]:
        return refusals_explained(str(self._path))


class NoDroppedLog:
    """The log of a process that is not the one to write."""

    def ask(self, step: int, judged: Judged) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass
