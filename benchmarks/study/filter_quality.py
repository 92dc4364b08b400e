# SPDX-License-Identifier: Apache-2.0
"""How well the adaptive momentum filter finds pairs that are known to be wrong."""

import collections
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.study.noise import is_exchanged
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
class Part:
    """The filter on a part of the pairs."""

    precision: float
    recall: float
    share: float  # of all wrong pairs that came by


# Training captions that a caption's rarest word stands in, the caption itself among them.
RARITY = {"1 or 2": (1, 3), "3 to 11": (3, 12), "12 or more": (12, math.inf)}


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


def quality_by_rarity(run: Path, share: float = 0.25) -> dict[str, Part]:
    """Which wrong pairs are found: by how many captions have the rarest word of theirs.

    Over the last `share` of the run. A word that no other pair has contradicts nothing.
    """
    config = json.loads((run / "config.json").read_text("utf-8"))
    folder, _, split = config["data"]["train"].partition("#")
    with open_split(folder, split) as rows:
        table = rows.pair_table()
        captions = [_words(rows.record(row).captions[place]) for row, place in table.tolist()]
        wrong = is_exchanged(folder, len(rows))[table[:, 0]]
    often = collections.Counter(word for words in captions for word in words)
    rarest = np.array([min((often[word] for word in words), default=0) for words in captions])
    steps = _last_step(run)
    first = int((1 - share) * steps)
    positions = np.arange(first * config["batch"], steps * config["batch"])
    seen = np.bincount(shuffled(positions, config["seed"], len(wrong)), minlength=len(wrong))
    late = [pair for step, pair in _dropped(run) if step > first]
    dropped = np.bincount(np.array(late, np.int64), minlength=len(wrong))
    found = {}
    for name, (low, high) in RARITY.items():
        inside = (rarest >= low) & (rarest < high)
        caught, came = dropped[inside & wrong].sum(), seen[inside & wrong].sum()
        found[name] = Part(
            _ratio(caught, dropped[inside].sum()),
            _ratio(caught, came),
            _ratio(came, seen[wrong].sum()),
        )
    return found


def _words(caption: str) -> set[str]:
    return {word.strip(":,") for word in caption.lower().split()}


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
