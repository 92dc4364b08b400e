# SPDX-License-Identifier: Apache-2.0
"""The parts that tasks have made, checked and joined to the folder that one run would have made."""

import heapq
import json
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from cots_jax.data.prepare.fill import no_usable_pair
from cots_jax.data.prepare.grouping import add_grouped
from cots_jax.data.prepare.progress import track_units
from cots_jax.data.prepare.shards import file_digest
from cots_jax.data.prepare.traces import Trace, finished_traces
from cots_jax.data.prepare.twins import Duplicates, Twins
from cots_jax.data.prepare.write import (
    PART_NAME,
    FolderWriter,
    Plan,
    Prepared,
    already_there,
    prepare_folder,
)
from cots_jax.data.records import FACTS_FILE, REJECTS_FILE, Split, open_split, read_facts
from cots_jax.errors import UserError

TASK = "task"  # the one argument in which parts differ


def merge_parts(out: pathlib.Path) -> Prepared:
    """Joins `out/task-*` to `out`: the same records, shards and fingerprint as of a run without
    tasks; the rejects stand in another order, what is dropped as a duplicate last.

    UserError where a part is missing, unfinished, damaged or made by other arguments. The parts are
    left as they are.
    """
    parts = _parts(out)
    facts = [read_facts(part) for part in parts]
    plan = _plan(parts, facts)
    if already_there(out, plan) is None:
        for part, found in zip(parts, facts):
            _check(part, found)

    def fill(writer: FolderWriter) -> None:
        twins = Twins(Duplicates(plan.arguments.get("duplicates", Duplicates.KEEP)))
        for part in parts:
            _copy_rejects(part, writer)
        units = [lambda part=part: _records(part) for part in parts]
        for _, stored in track_units(units, "joining parts"):
            _add(stored, twins, writer)
        if writer.is_empty:
            raise no_usable_pair(str(out), writer)

    return prepare_folder(out, plan, fill)


def _parts(out: pathlib.Path) -> list[pathlib.Path]:
    """The parts' folders in their order, all of them."""
    there = sorted(out.iterdir()) if out.is_dir() else []
    found = {path.name: path for path in there if PART_NAME.fullmatch(path.name)}
    counts = sorted({int(name[-5:]) for name in found})
    if not counts:
        raise UserError(f"{out} has no parts: make them with --task=1/n to --task=n/n")
    if len(counts) > 1:
        raise UserError(
            f"{out} has parts of {' and of '.join(map(str, counts))}: remove the ones not meant"
        )
    names = [f"task-{number:05d}-of-{counts[0]:05d}" for number in range(1, counts[0] + 1)]
    missing = [
        f"{number}/{counts[0]}"
        for number, name in enumerate(names, 1)
        if name not in found or not (found[name] / FACTS_FILE).is_file()
    ]
    if missing:
        raise UserError(
            f"{out} lacks {len(missing)} of {counts[0]} parts or they are unfinished: run the same "
            f"command with --task={missing[0]}"
            + (f", then {', '.join(missing[1:4])}" if missing[1:] else "")
            + (", …" if missing[4:] else "")
        )
    return [found[name] for name in names]


def _plan(parts: Sequence[pathlib.Path], facts: Sequence[dict[str, Any]]) -> Plan:
    """What a run without tasks would have been asked for; UserError where the parts differ."""
    plans = [
        Plan(found["name"], found["kind"], found["licence"], found["longest_side"],
             {key: value for key, value in found["arguments"].items() if key != TASK},
             frames=found.get("frames", 0))
        for found in facts
    ]  # fmt: skip
    for part, plan in zip(parts, plans):
        if plan != plans[0]:
            keys = [key for key in plan.arguments | plans[0].arguments
                    if plan.arguments.get(key) != plans[0].arguments.get(key)]  # fmt: skip
            raise UserError(
                f"{part} was made by other arguments than {parts[0].name} "
                f"({', '.join(sorted(keys) or ['name, kind or size'])}): make all parts by one "
                "command, from the same source"
            )
    return plans[0]


def _check(part: pathlib.Path, facts: dict[str, Any]) -> None:
    for shard in facts["shards"]:
        path = part / shard["file"]
        if not path.is_file() or file_digest(path) != shard["sha256"]:
            task = facts["arguments"][TASK]
            raise UserError(
                f"{path} is missing or damaged: remove {part} and run --task={task} again"
            )


def _copy_rejects(part: pathlib.Path, writer: FolderWriter) -> None:
    with (part / REJECTS_FILE).open(encoding="utf-8") as file:
        for line in file:
            writer.reject(**json.loads(line))


@dataclass(frozen=True)
class _Stored:
    """A record of a part, not read yet."""

    split: Split
    row: int
    trace: np.ndarray


def _records(part: pathlib.Path) -> Iterator[_Stored]:
    """The records of a part in the order of the source, whatever their split."""
    with ExitStack() as stack:
        splits = [
            stack.enter_context(open_split(part, name))
            for name in sorted(read_facts(part)["splits"])
        ]
        yield from heapq.merge(*map(_traced, splits), key=lambda found: int(found.trace["ordinal"]))


def _traced(split: Split) -> Iterator[_Stored]:
    row = 0
    for traces in finished_traces(split.folder / split.split):
        for place in range(len(traces)):
            yield _Stored(split, row, traces[place, ...])
            row += 1
    if row != len(split):
        raise UserError(
            f"{split.folder / split.split} has traces of {row:,} of its {len(split):,} records: "
            f"remove {split.folder} and run its task again"
        )


def _add(stored: _Stored, twins: Twins, writer: FolderWriter) -> None:
    trace = Trace(int(stored.trace["ordinal"]), int(stored.trace["file"]), stored.trace["look"])
    add_grouped(stored.split.record(stored.row), stored.split.split, trace, twins, writer)
