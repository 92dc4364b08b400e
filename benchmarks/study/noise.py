# SPDX-License-Identifier: Apache-2.0
"""Prepared data with wrong captions whose places are known: what a noise filter is judged by."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from benchmarks.study.arms import Noise
from benchmarks.study.copies import TRAIN, Splits, copied
from cots_jax.data.prepare.write import Prepared
from cots_jax.data.records import Record, open_split
from cots_jax.files import write_whole

EXCHANGED = "exchanged.json"  # row numbers of the training split


def noisy_copy(noise: Noise) -> Prepared:
    """Copies all splits; in `train`, a share of the records get each other's captions.

    None of them keeps a caption that fits. Such a record belongs to no group but its own, as a
    wrong pair on the web does. Made again only where it is not there.
    """

    def changed(splits: Splits) -> Splits:
        return {**splits, TRAIN: _exchanged(splits[TRAIN], noise)}

    arguments = {"share": noise.share, "seed": noise.seed}
    prepared = copied(noise.folder, noise.of, "noise", arguments, changed)
    with open_split(noise.of, TRAIN) as rows:
        chosen, _ = exchange(rows.group_id, noise.share, noise.seed)
    write_whole(Path(noise.folder) / EXCHANGED, json.dumps(chosen.tolist()) + "\n")
    return prepared


def is_exchanged(folder: str | Path, records: int) -> Bool[np.ndarray, "r"]:
    """Which of the training records have a wrong caption."""
    wrong = np.zeros(records, bool)
    wrong[json.loads((Path(folder) / EXCHANGED).read_text("utf-8"))] = True
    return wrong


def exchange(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, whose captions they get): a permutation in which no row gets one of its own group."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(groups), round(share * len(groups)), replace=False))
    givers = rng.permutation(rows)
    while (same := np.flatnonzero(groups[rows] == groups[givers])).size:
        others = rng.choice(len(rows), same.size, replace=False)
        for one, other in zip(same, others):
            givers[one], givers[other] = givers[other], givers[one]
    return rows, givers


def _exchanged(records: list[Record], noise: Noise) -> list[Record]:
    groups = np.array([record.group_id for record in records])
    changed = list(records)
    for row, giver in zip(*exchange(groups, noise.share, noise.seed), strict=True):
        record, other = records[row], records[giver]
        changed[row] = dataclasses.replace(
            record,
            captions=other.captions,
            raw_captions=other.raw_captions,
            group=f"{record.id} with captions of {other.id}",
        )
    return changed
