# SPDX-License-Identifier: Apache-2.0
"""What a run measured, for people and scripts: metrics.jsonl and TensorBoard files.

A resumed run repeats its steps exactly, so what was logged after the checkpoint is cut off and
written again: the log reads as if the run had never been interrupted.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cots_jax.errors import UserError
from cots_jax.train.tensorboard import Event, EventsWriter, SessionLog, Summary

FLUSH_EVERY = (
    15.0  # seconds between flushes of TensorBoard's file, each of which waits for the disk
)
# What of a logged line depends on the clock and not on the run alone.
TIMES = (
    "seconds",
    "pairs_per_second",
    "mfu",
    "data_wait",
    "goodput",
    "step_p50",
    "step_p95",
    "step_max",
    "memory_gb",
)


class MetricsLog:
    """Appends one JSON object a logged step to `workdir/metrics.jsonl`, and TensorBoard scalars.

    resume_step: the step that the run goes on from, 0 for a new run; lines of later steps go.
    Each line is handed to the operating system before `write` returns, so a killed run loses none;
    TensorBoard's part is safe up to the last `sync`, which is as far back as a run is resumed.
    Raises UserError when the disk refuses.
    """

    def __init__(self, workdir: Path, resume_step: int = 0) -> None:
        self._workdir = workdir
        with self._refusals_explained():
            workdir.mkdir(parents=True, exist_ok=True)
            file = workdir / "metrics.jsonl"
            cut_after(file, resume_step)
            self._lines = file.open("a", encoding="utf-8")
            self._events = _open_events(workdir / "tensorboard", resume_step)
        self._flushed = time.monotonic()

    def write(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Logs the numbers of one step; NaN and infinities become null, listed in `nonfinite`."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        with self._refusals_explained():
            self._lines.write(to_line(step, metrics))
            self._lines.flush()
            self._events.write_event(event)
            if time.monotonic() - self._flushed > FLUSH_EVERY:
                self._events.flush()
                self._flushed = time.monotonic()

    def sync(self) -> None:
        """Waits until everything is on the disk; before a checkpoint that would outlive it."""
        with self._refusals_explained():
            os.fsync(self._lines.fileno())
            self._events.flush()

    def close(self) -> None:
        with self._refusals_explained():
            self._lines.close()
            self._events.close()

    def _refusals_explained(self) -> contextlib.AbstractContextManager[None]:
        return refusals_explained(f"the metrics in {self._workdir}")


class NoLog:
    """The log of a process that is not the one to write."""

    def write(self, step: int, metrics: Mapping[str, float | int]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextlib.contextmanager
def refusals_explained(what: str) -> Iterator[None]:
    """Turns the disk's refusal to write `what` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {what} ({error.strerror}): make room or make it writable, then start "
            "again"
        ) from error


def to_line(step: int, metrics: Mapping[str, float | int]) -> str:
    """One line of strict JSON with 9 significant digits, which give back any float32 exactly."""
    lost = [name for name, value in metrics.items() if not math.isfinite(value)]
    row: dict[str, Any] = {"step": step}
    for name, value in metrics.items():
        row[name] = None if name in lost else float(f"{value:.9g}")
    # a rate that is not known yet says nothing of the run, which may have been started again here
    if listed := [name for name in lost if name not in TIMES]:
        row["nonfinite"] = listed
    return json.dumps(row, allow_nan=False) + "\n"


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a kill has torn is left out."""
    rows = (_row(line) for line in file.read_bytes().splitlines(keepends=True))
    return [row for row in rows if row is not None]


def cut_after(file: Path, step: int) -> None:
    """Removes torn lines, and those of steps after `step`; the file is whole at every moment."""
    if not file.exists():
        return
    lines = file.read_bytes().splitlines(keepends=True)
    rows = [(line, _row(line)) for line in lines]
    kept = [line for line, row in rows if row is not None and row["step"] <= step]
    if len(kept) < len(lines):
        unfinished = file.with_name(f"{file.name}.unfinished")
        unfinished.write_bytes(b"".join(kept))
        unfinished.replace(file)


def _row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _open_events(folder: Path, resume_step: int) -> EventsWriter:
    """A new event file; TensorBoard hides what older ones hold from the next step on.

    tensorboardX's SummaryWriter is not used: its queue blocks for good once the disk is full, and
    a restart within the same second overwrites the file before.
    """
    folder.mkdir(exist_ok=True)
    writer = EventsWriter(str(folder / "events"), f".{len(list(folder.iterdir()))}")
    restart = SessionLog(status=SessionLog.START)
    writer.write_event(Event(wall_time=time.time(), step=resume_step + 1, session_log=restart))
    writer.flush()
    return writer
