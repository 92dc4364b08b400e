# SPDX-License-Identifier: Apache-2.0
"""A task's share of a collection (`--task=i/n`), embedded into a folder of its own.

A file belongs to the task that the hash of its name says, so that more files move none. The run
without `--task` takes over what the tasks have made, and embeds whatever they have not.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from cots_jax.collection.claim import begin
from cots_jax.collection.parts_writer import PART_ROWS
from cots_jax.collection.sources import Entry, Source
from cots_jax.collection.update import (
    Maker,
    Updated,
    made_by_of,
    refuse_other,
    update,
    usable_parts,
)
from cots_jax.data.prepare.tasks import Task
from cots_jax.retrieval.index_files import INDEX_FILE, part_rows, read_facts


def update_share(
    out: Path, source: Source, maker: Maker, task: Task, size: int = PART_ROWS
) -> Updated:
    """Embeds what the index in `out` lacks of a task's share; errors as of `update`."""
    known: set[tuple[str, str]] = set()
    if (out / INDEX_FILE).exists():
        before = read_facts(out)
        refuse_other(out, before, source, maker)
        for part in usable_parts(out, before, made_by_of(source, maker)):
            known.update((row.name, row.stamp) for row in part_rows(out, part))

    def entries() -> Iterator[Entry]:
        for one in source.entries():
            mine = isinstance(one, Entry) and _task_of(one.name, task.of) == task.number
            if mine and (one.name, one.stamp) not in known:
                yield one

    begin(out)
    share = dataclasses.replace(source, entries=entries, state=None, task=task)
    return update(task.folder(out), share, maker, size)


def _task_of(name: str, of: int) -> int:
    """1 … of."""
    digest = hashlib.sha256(name.encode()).digest()
    return 1 + int.from_bytes(digest[:8], "big") % of
