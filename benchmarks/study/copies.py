# SPDX-License-Identifier: Apache-2.0
"""Prepared folders made out of others: the same records, some of them changed or put elsewhere."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer

from benchmarks.study.arms import Fold
from cots_jax.data.prepare.write import FolderWriter, Plan, Prepared, prepare_folder
from cots_jax.data.records import Record, list_splits, open_split, read_facts

TRAIN, DEV = "train", "dev"
Splits = dict[str, list[Record]]


def copied(
    folder: str,
    of: str,
    kind: str,
    arguments: Mapping[str, float],
    change: Callable[[Splits], Splits],
) -> Prepared:
    """Writes to `folder` what `change` makes of the splits of `of`; once, while both stay as is."""
    facts = read_facts(of)
    known = {**arguments, "of": facts["fingerprint"]}
    name = Path(folder).name
    frames = facts.get("frames", 0)  # of videos
    plan = Plan(name, kind, facts["licence"], facts["longest_side"], known, frames=frames)

    def fill(writer: FolderWriter) -> None:
        splits: Splits = {}
        for split in list_splits(of):
            with open_split(of, split) as rows:
                splits[split] = [rows.record(row) for row in range(len(rows))]
        for split, records in change(splits).items():
            for record in records:
                group_id = writer.group_id(record.group)
                writer.add(split, dataclasses.replace(record, group_id=group_id))

    return prepare_folder(Path(folder), plan, fill)


def fold_copy(fold: Fold) -> Prepared:
    """Copies the training split in two: `dev` has a share of the groups, `train` all others."""

    def divided(splits: Splits) -> Splits:
        records = splits[TRAIN]
        groups = np.array([record.group_id for record in records])
        dev = held_out(groups, fold.share, fold.seed)
        return {
            TRAIN: [record for record, out in zip(records, dev, strict=True) if not out],
            DEV: [record for record, out in zip(records, dev, strict=True) if out],
        }

    arguments = {"share": fold.share, "seed": fold.seed}
    return copied(fold.folder, fold.of, "fold", arguments, divided)


def held_out(groups: Integer[np.ndarray, "r"], share: float, seed: int) -> Bool[np.ndarray, "r"]:
    """Which records are of a share of the groups, drawn by the seed."""
    names = np.unique(groups)
    rng = np.random.default_rng(seed)
    return np.isin(groups, rng.choice(names, round(share * len(names)), replace=False))
