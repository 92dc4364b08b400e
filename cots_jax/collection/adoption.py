# SPDX-License-Identifier: Apache-2.0
"""What tasks have embedded, taken over by the run that joins them."""

import contextlib
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cots_jax.collection.claim import claimed
from cots_jax.collection.skipped import read_skipped, write_skipped
from cots_jax.data.prepare.write import PART_NAME
from cots_jax.retrieval.index_files import KINDS, find_part, part_file, part_numbers


@contextlib.contextmanager
def adopted(out: Path, made_by: Mapping[str, Any]) -> Generator[Sequence[Path]]:
    """Puts the finished parts of `out/task-*` into `out` under new numbers, as if a killed run had
    left them there, and holds the tasks' folders, which it gives. UserError where a task still
    writes."""
    folders = sorted(path for path in out.iterdir() if PART_NAME.fullmatch(path.name))
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(claimed(folder))
            for number in part_numbers(folder):
                if find_part(folder, number, made_by) is not None:
                    _link_part(folder, number, out)
        broken = [one for folder in folders for one in read_skipped(folder)]
        if broken:
            write_skipped(out, [*read_skipped(out), *broken])
        yield folders


def _link_part(folder: Path, number: int, out: Path) -> None:
    new = max(part_numbers(out), default=-1) + 1
    for kind in KINDS:  # the metadata last: with them a part is finished
        old, path = part_file(folder, kind, number), part_file(out, kind, new)
        if old.exists():
            path.parent.mkdir(exist_ok=True)
            try:
                os.link(old, path)
            except OSError:  # another disk, or one without links
                shutil.copyfile(old, path)
