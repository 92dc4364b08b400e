# SPDX-License-Identifier: Apache-2.0
"""How well the adaptive momentum filter finds pairs that are known to be wrong."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.study.noise import fitting_captions, is_exchanged
from cots_jax.data.records import open_split
from cots_jax.data.shuffle import shuffled

WINDOWS = 20  # parts of a run


@dataclasses.dataclass(frozen=True)
class Window:
    """What the filter did in some steps. NaN where there was nothing to divide by."""

    step: int  # the last one
    precision: float  # wrong pairs among the dropped ones
    recall: float  # dropped ones among the wrong pairs that came by
    clean_dropped: float  # dropped ones among the right pairs that came by


@dataclasses.dataclass(frozen=True)
class Likeness:
    """How many of some wrong pairs were dropped, and how many of all wrong pairs these are."""

    recall: float
    share: float


LIKENESS = {"no word alike": (0, 1e-9), "below half": (1e-9, 0.5), "half or more": (0.5, 1.1)}


def filter_quality(run: Path, windows: int = WINDOWS) -> list[Window]:
    """Precision and recall over time, from a run's dropped.jsonl and the order of its data."""
    config = json.loads((run / "config.json").read_text("utf-8"))
    folder, _, split = config["data"]["train"].partition("#")
    with open_split(folder, split) as rows:
        record = rows.pair_table()[:, 0]
        wrong = is_exchanged(folder, len(rows))[record]
    steps = _last_step(run)
    edges = np.linspace(0, steps, windows + 1).astype(int)
    dropped = np.array(list(_dropped(run)), np.int64).reshape(-1, 2)
    found = []
    for first, last in itertools.pairwise(edges.tolist()):
        positions = np.arange(first * config["batch"], last * config["batch"])
        seen = wrong[shuffled(positions, config["seed"], len(wrong))]
        inside = (dropped[:, 0] > first) & (dropped[:, 0] <= last)
        caught = wrong[dropped[inside, 1]]
        found.append(
            Window(
                int(last),
                _ratio(caught.sum(), caught.size),
                _ratio(caught.sum(), seen.sum()),
                _ratio((~caught).sum(), (~seen).sum()),
            )
        )
    return found


def recall_by_likeness(run: Path, share: float = 0.25) -> dict[str, Likeness]:
    """Why wrong pairs are not dropped: recall by how like their caption is to the one that fits.

    Over the last `share` of the run. Likeness: words that both captions have over words that either
    has (Jaccard).
    """
    config = json.loads((run / "config.json").read_text("utf-8"))
    folder, _, split = config["data"]["train"].partition("#")
    with open_split(folder, split) as rows:
        table = rows.pair_table()
        wrong = is_exchanged(folder, len(rows))[table[:, 0]]
        likeness = np.zeros(len(table))
        for row, fitting in fitting_captions(folder).items():
            given = rows.record(row).captions
            likeness[table[:, 0] == row] = max(_jaccard(a, b) for a in given for b in fitting)
    steps = _last_step(run)
    first = int((1 - share) * steps)
    positions = np.arange(first * config["batch"], steps * config["batch"])
    seen = np.bincount(shuffled(positions, config["seed"], len(wrong)), minlength=len(wrong))
    caught = np.bincount(
        [pair for step, pair in _dropped(run) if step > first], minlength=len(wrong)
    )
    found = {}
    for name, (low, high) in LIKENESS.items():
        inside = wrong & (likeness >= low) & (likeness < high)
        count = int(seen[inside].sum())
        found[name] = Likeness(
            _ratio(caught[inside].sum(), count), _ratio(count, seen[wrong].sum())
        )
    return found


def _jaccard(first: str, second: str) -> float:
    one, other = ({word.strip(":,") for word in text.lower().split()} for text in (first, second))
    return len(one & other) / max(len(one | other), 1)


def _dropped(run: Path) -> Iterator[tuple[int, int]]:
    """(step, pair) of each dropped pair; a run without any has no file."""
    path = run / "dropped.jsonl"
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["step"], row["pair"]


def _last_step(run: Path) -> int:
    rows = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    return max(json.loads(row)["step"] for row in rows)


def _ratio(part: int, whole: int) -> float:
    return float(part) / float(whole) if whole else float("nan")
