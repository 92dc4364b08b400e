# SPDX-License-Identifier: Apache-2.0
"""Whether what is evaluated was trained on, as far as the lineage and this disk can tell.

A picture counts where its stored bytes are equal. Copies that were saved anew are found by
`prepare --exclude`, which is where leakage is to be avoided; here it is only noticed.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cots_jax.data.records import read_facts
from cots_jax.errors import UserError
from cots_jax.retrieval.contents import Digests, digests_of
from cots_jax.retrieval.protocols import Leakage

ENTRY = re.compile(r"(.+)#([^#]+) \(([0-9a-f]{12})\)")  # as data/specs.py writes it
MOST_BYTES = (
    2 * 2**30
)  # of a training split; more is not read for this, since it would take minutes


@dataclass(frozen=True)
class Audit:
    """What was found, the worst first, and why something was not looked at."""

    found: tuple[Leakage, ...] = ()
    not_checked: tuple[str, ...] = ()

    def notes(self, evaluated: str, pictures: int) -> list[str]:
        """What to say of it; `evaluated`: FOLDER#SPLIT with so many pictures."""
        return [
            *(f"LEAKAGE into {evaluated}: {leak.said(pictures)}" for leak in self.found),
            *(f"leakage into {evaluated} not checked: {why}" for why in self.not_checked),
        ]


def audit(trained_on: Sequence[str], folder: str, split: str, digests: Digests) -> Audit:
    """Looks for an evaluated split among what the lineage names, and for its pictures in there.

    trained_on: entries of a lineage; those that are no prepared folder, such as published weights,
    cannot be looked into. digests: of the evaluated split. Never raises for a training folder.
    """
    evaluated = read_facts(folder)["fingerprint"][:12]
    found, not_checked = [], []
    for entry in dict.fromkeys(trained_on):
        named = ENTRY.fullmatch(entry)
        if named is None:
            continue
        there, of_split, fingerprint = named.groups()
        if (fingerprint, of_split) == (evaluated, split):
            found.append(Leakage(there, of_split, len(digests.picture), len(digests.picture)))
            continue
        try:
            # the same data may lie in another folder by now: then that one is looked into
            trained = _digests(folder if fingerprint == evaluated else there, of_split, fingerprint)
        except _NotCheckedError as why:
            not_checked.append(str(why))
            continue
        pictures = int(np.isin(digests.picture, trained.picture).sum())
        if pictures:
            told = np.unique(digests.record[np.isin(digests.pair, trained.pair)])
            found.append(Leakage(there, of_split, pictures, len(told)))
    found.sort(key=lambda leak: -leak.pictures)
    return Audit(tuple(found), tuple(not_checked))


class _NotCheckedError(Exception):
    """Why a training folder is not looked into."""


@functools.lru_cache(maxsize=8)  # several sets are evaluated against one training folder
def _digests(folder: str, split: str, fingerprint: str) -> Digests:
    try:
        facts = read_facts(folder)
    except UserError as error:
        raise _NotCheckedError(f"{folder} is not here") from error
    if facts["fingerprint"][:12] != fingerprint:
        raise _NotCheckedError(f"{folder} is not here as it was trained on, but prepared anew")
    size = sum(shard["bytes"] for shard in facts["shards"] if shard["split"] == split)
    if size > MOST_BYTES:
        raise _NotCheckedError(
            f"{folder}#{split} has {size / 2**30:.1f} GiB, and above {MOST_BYTES / 2**30:g} "
            "nothing is read for this; prepare --exclude keeps evaluated pictures out"
        )
    try:
        return digests_of(folder, split)
    except UserError as error:
        raise _NotCheckedError(str(error)) from error
