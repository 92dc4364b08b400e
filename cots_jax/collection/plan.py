# SPDX-License-Identifier: Apache-2.0
"""What of an index stays, what is written anew, and what has to be looked at."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from cots_jax.collection.skipped import read_skipped
from cots_jax.collection.sources import Entry, Skipped, Source
from cots_jax.retrieval.index_files import Part, part_rows


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a known picture stands, or a video with all its pieces."""

    part: int  # in the plan's list
    rows: range
    stamp: str
    digest: str
    source: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an update has to do."""

    parts: Sequence[Part]
    known: Mapping[str, Place]
    untouched: frozenset[int]  # numbers of the parts that stay as they are
    left: Mapping[int, Bool[np.ndarray, "n"]]  # of the others by place in the list: rows that stay
    suspects: Sequence[Entry]  # new, or with another stamp or source
    skipped: Sequence[Skipped]


def make_plan(out: Path, source: Source, parts: Sequence[Part], size: int) -> Plan:
    """Compares a source with the rows of these parts, of which a later one counts; nothing is
    read of a picture whose stamp is known. size: rows of a full part."""
    known: dict[str, Place] = {}
    for number, part in enumerate(parts):
        end = 0
        for _, pieces in itertools.groupby(part_rows(out, part), lambda row: row.name):
            first, *others = pieces
            rows = range(end, end + 1 + len(others))
            place = Place(number, rows, first.stamp, first.digest, first.source)
            known[first.name] = place  # the later counts
            end = rows.stop
    live = [np.zeros(part.rows, bool) for part in parts]
    broken = {(one.name, one.stamp): one.reason for one in read_skipped(out) if one.stamp}
    suspects, skipped, seen = [], [], set()
    for found in source.entries():
        if isinstance(found, Skipped):
            skipped.append(found)
        elif found.name in seen:
            skipped.append(Skipped(found.name, "picture_name_repeated"))
        else:
            seen.add(found.name)
            place = known.get(found.name)
            reason = broken.get((found.name, found.stamp))
            now = (found.stamp, found.source)
            if place is not None and (place.stamp, place.source) == now:
                live[place.part][place.rows] = True
            elif reason is not None:
                skipped.append(Skipped(found.name, reason, found.stamp))
            else:
                suspects.append(found)
    idle = not suspects and all(rows.all() for rows in live)
    stay = [n for n, rows in enumerate(live) if rows.all() and (idle or 2 * len(rows) >= size)]
    untouched = frozenset(parts[number].number for number in stay)
    left = {number: rows for number, rows in enumerate(live) if number not in stay}
    return Plan(parts, known, untouched, left, suspects, skipped)
