# SPDX-License-Identifier: Apache-2.0
"""Writing a prepared folder: splits, rejects, and `dataset.json` last.

`preparing.json` marks a folder that a run is writing, so that an interrupted run is known as
ours: an equal one goes on after its finished shards, another starts again cleanly. Nothing else is
ever removed or written over.
"""

import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import PIL

from cots_jax.data.prepare.shards import (
    SplitWriter,
    fingerprint,
    remove_shards,
    remove_traces,
    shard_facts,
)
from cots_jax.data.prepare.traces import Finished, Trace, finished_shards, trace_file
from cots_jax.data.records import (
    FACTS_FILE,
    REJECTS_FILE,
    SCHEMA_VERSION,
    VIDEO_SCHEMA_VERSION,
    Record,
    read_facts,
)
from cots_jax.errors import UserError

MARKER_FILE = "preparing.json"
PART_NAME = re.compile(r"task-(\d{5})-of-(\d{5})")  # a folder that `--task` has made
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class Role(StrEnum):
    """What a folder is for."""

    WHOLE = "whole"
    PART = "part"  # to be joined with others: keeps the traces of its records, may be empty


@dataclass(frozen=True)
class Plan:
    """What a folder is made from; two runs with equal name, kind and arguments make the same."""

    name: str
    kind: str
    licence: str
    longest_side: int  # pixels
    arguments: dict[str, Any]
    role: Role = Role.WHOLE
    frames: int = 0  # the most of a video; 0: pictures
    decoder: str = ""  # of videos, with its version

    def marker(self) -> str:
        """What an interrupted run must have in common with one that goes on with its shards."""
        same = {"name": self.name, "kind": self.kind, "arguments": self.arguments}
        decoders = {"pillow": PIL.__version__} | ({"video": self.decoder} if self.decoder else {})
        return json.dumps(same | decoders) + "\n"


class Shards(StrEnum):
    """Which shards of an interrupted run are removed."""

    ALL = "all"
    UNFINISHED = "unfinished"


class Outcome(StrEnum):
    """What a run of prepare had to do."""

    MADE = "made"
    ALREADY_THERE = "already there"


@dataclass(frozen=True)
class Prepared:
    """A whole prepared folder: its facts are the contents of `dataset.json`."""

    folder: pathlib.Path
    facts: dict[str, Any]
    outcome: Outcome

    def summary(self) -> str:
        """What the folder holds, in one line."""
        noun = "videos" if self.facts.get("frames") else "pictures"
        splits = ", ".join(
            f"{name} {counts['records']:,} {noun} / {counts['pairs']:,} pairs"
            for name, counts in self.facts["splits"].items()
        )
        return f"{self.folder} {self.outcome}: {splits}; {drops_in_words(self.facts['drops'])}"


def is_part(path: pathlib.Path) -> bool:
    """Whether this is the folder of a task, whose shards are its own."""
    return PART_NAME.fullmatch(path.name) is not None


def drops_in_words(drops: Mapping[str, int]) -> str:
    """Counts of what was dropped by reason, in one line."""
    if not drops:
        return "nothing was dropped"
    counted = ", ".join(f"{reason} {count:,}" for reason, count in sorted(drops.items()))
    return f"dropped {counted} (see {REJECTS_FILE})"


class FolderWriter:
    """Adds records to the splits of one folder, counts and lists what is dropped."""

    def __init__(self, folder: pathlib.Path):
        self.drops: Counter[str] = Counter()
        self._folder = folder
        shards = {name: finished_shards(folder / name) for name in _split_folders(folder)}
        self.finished = Finished(shards)
        self._found_again = 0  # of the finished records
        self._splits = {name: SplitWriter(folder / name, found) for name, found in shards.items()}
        self._groups: dict[str, int] = {}
        self._group_count = 0
        self._rejects = (folder / REJECTS_FILE).open("w", encoding="utf-8")

    def new_group(self) -> int:
        """The dense number of a group that nothing is in yet."""
        self._group_count += 1
        return self._group_count - 1

    def group_id(self, group: str) -> int:
        """The dense number of a group by its name, given in the order of first mention."""
        if group not in self._groups:
            self._groups[group] = self.new_group()
        return self._groups[group]

    def add(self, split: str, record: Record, trace: Trace | None = None) -> None:
        """Appends a record to a split, unless it stands in a shard that was finished before.

        UserError where it stands there otherwise.
        """
        if trace is not None and self.finished.trace(trace.ordinal) is not None:
            if not self.finished.agrees(trace.ordinal, split, record.group_id):
                raise self._other_source(record.id)
            self._found_again += 1
            return
        if split not in self._splits:
            self._splits[split] = SplitWriter(self._folder / split)
        self._splits[split].add(record, trace)

    def _other_source(self, where: str) -> UserError:
        return UserError(
            f"{self._folder} was begun from another state of the source (seen at {where}): remove "
            "that folder and run the same command again"
        )

    def reject(self, reason: str, source_row: str, id: str, **more: str) -> None:
        """Counts a dropped row, picture or caption and lists it in `rejects.jsonl`."""
        self.drops[reason] += 1
        line = {"reason": reason, "source_row": source_row, "id": id, **more}
        self._rejects.write(json.dumps(line) + "\n")

    @property
    def is_empty(self) -> bool:
        """Whether no record was added yet."""
        return not self._splits

    def finish(self, plan: Plan) -> dict[str, Any]:
        """Closes all files and writes `dataset.json`, which makes the folder whole."""
        if self._found_again != len(self.finished):
            raise self._other_source("its end")
        self._rejects.close()
        names = sorted(self._splits)
        shards = [shard for name in names for shard in self._splits[name].finish()]
        facts = {
            "schema_version": VIDEO_SCHEMA_VERSION if plan.frames else SCHEMA_VERSION,
            "name": plan.name,
            "kind": plan.kind,
            "licence": plan.licence,
            "longest_side": plan.longest_side,
            **({"frames": plan.frames} if plan.frames else {}),
            "arguments": plan.arguments,
            "splits": {name: self._splits[name].counts() for name in names},
            "groups": self._group_count,
            "drops": dict(sorted(self.drops.items())),
            "fingerprint": fingerprint(shards),
            "shards": shard_facts(shards),
        }
        unfinished = self._folder / (FACTS_FILE + ".writing")
        unfinished.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
        unfinished.replace(self._folder / FACTS_FILE)
        (self._folder / MARKER_FILE).unlink()
        if plan.role is Role.WHOLE:
            for name in names:
                remove_traces(self._folder / name)
        return facts

    def abandon(self) -> None:
        """Closes the files of a run that failed, whether or not they can still be flushed."""
        for close in (self._rejects.close, *(split.close for split in self._splits.values())):
            try:
                close()
            except (OSError, RuntimeError):
                continue


def prepare_folder(
    folder: pathlib.Path, plan: Plan, fill: Callable[[FolderWriter], None]
) -> Prepared:
    """Makes the planned folder by calling `fill` with its writer, unless it is there already.

    On any error the folder is left without `dataset.json`, to be gone on with by the next run;
    a full disk and a folder that is not ours to write are UserErrors.
    """
    facts = already_there(folder, plan)
    if facts is not None:
        return Prepared(folder, facts, Outcome.ALREADY_THERE)
    with _system_errors_in_words(folder), _claimed(folder, plan):
        writer = FolderWriter(folder)
        try:
            fill(writer)
            return Prepared(folder, writer.finish(plan), Outcome.MADE)
        except BaseException:
            writer.abandon()
            raise


def already_there(folder: pathlib.Path, plan: Plan) -> dict[str, Any] | None:
    """The facts of a folder that an equal run made before; None where there is none.

    UserError where the folder was made by other arguments or holds somebody's files.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --out")
    if not (folder / FACTS_FILE).exists():
        others = folder.is_dir() and any(not is_part(path) for path in folder.iterdir())
        if others and not (folder / MARKER_FILE).exists():
            raise UserError(f"{folder} holds other files: choose another --out")
        return None
    facts = read_facts(folder)
    found = {"kind": facts["kind"], "name": facts["name"], **facts["arguments"]}
    wanted = {"kind": plan.kind, "name": plan.name, **plan.arguments}
    keys = sorted(key for key in found | wanted if found.get(key) != wanted.get(key))
    if keys:
        differ = ", ".join(f"{key} {found.get(key)!r}, now {wanted.get(key)!r}" for key in keys)
        raise UserError(
            f"{folder} was prepared with other arguments ({differ}): "
            "choose another --out, or remove that folder"
        )
    return facts


@contextmanager
def _claimed(folder: pathlib.Path, plan: Plan) -> Generator[None, None, None]:
    """Marks the folder as being written by this process alone, and clears a half-written one."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / MARKER_FILE).open("a+", encoding="utf-8") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is writing {folder}: wait for it") from error
        marker.seek(0)
        same = marker.read() == plan.marker()
        _remove_half_written(folder, Shards.UNFINISHED if same else Shards.ALL)
        marker.truncate(0)
        marker.write(plan.marker())
        marker.flush()
        yield


def _split_folders(folder: pathlib.Path) -> list[str]:
    """The folders that may hold a split's shards."""
    there = sorted(path for path in folder.iterdir() if not is_part(path))
    return [path.name for path in there if path.is_dir() and not path.is_symlink()
            and trace_file(path, 0).exists()]  # fmt: skip


def _remove_half_written(folder: pathlib.Path, shards: Shards) -> None:
    for part in folder.iterdir():
        if part.is_dir() and not part.is_symlink() and not is_part(part):
            finished = 0 if shards is Shards.ALL else len(finished_shards(part))
            remove_shards(part, finished)
    for name in (REJECTS_FILE, FACTS_FILE + ".writing"):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _system_errors_in_words(folder: pathlib.Path) -> Generator[None, None, None]:
    """What the system refuses, a full disk above all, as a UserError; what a full disk took is
    given back."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if _disk_is_full(error):
            _remove_half_written(folder, Shards.UNFINISHED)
            free = shutil.disk_usage(folder).free // 2**20
            raise UserError(
                f"the disk of {folder} is full ({free} MiB free without the unfinished shards): "
                "make room and run the same command again, which goes on after the finished ones, "
                "or choose an --out on another disk"
            ) from error
        if isinstance(error, OSError):
            raise UserError(f"{folder} cannot be written: {error}") from error
        raise


def _disk_is_full(error: OSError | RuntimeError) -> bool:
    # the ArrayRecord writer passes the system's error on as text
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    return any(os.strerror(code) in str(error) for code in FULL_DISK)
