# SPDX-License-Identifier: Apache-2.0
"""An index brought up to date: only what is new or changed is embedded, what is gone is dropped.

A picture is taken for untouched while its stamp (size and time of change) is the same, and for
equal while the digest of its content is. Parts that lose a row, and parts that are less than half
full, are written anew from their own vectors; the others stay as they are. So an index holds the
rows that a new one would, in another order: untouched parts first, then what was left of the
others, then what is new, in the source's order (own choice, all of it).
"""

import dataclasses
import functools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from cots_jax.collection.adoption import adopted
from cots_jax.collection.claim import claimed
from cots_jax.collection.old_rows import OldRows
from cots_jax.collection.parts_writer import PART_ROWS, PartsWriter, Stored
from cots_jax.collection.plan import Place, Plan, make_plan
from cots_jax.collection.skipped import SKIPPED_FILE, in_words, read_skipped, write_skipped
from cots_jax.collection.sources import VIDEOS, Entry, Skipped, Source, View
from cots_jax.data.prepare.pictures import PictureError, strict_decoding
from cots_jax.data.prepare.progress import track
from cots_jax.data.prepare.threads import in_order
from cots_jax.errors import UserError
from cots_jax.retrieval.checks import check_embeddings
from cots_jax.retrieval.embed import EMBED_BATCH
from cots_jax.retrieval.index_files import (
    IMAGES,
    INDEX_FILE,
    TEXTS,
    Facts,
    Part,
    Row,
    Storage,
    fault,
    find_part,
    part_numbers,
    part_vectors,
    read_facts,
    remove_part,
    write_facts,
)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What embeds: decoded pictures, or frames of videos, and captions to unit vectors."""

    images: Callable[[Sequence[UInt8[np.ndarray, "t s s 3"]]], Float32[np.ndarray, "n e"]]
    texts: Callable[[Sequence[str]], Float32[np.ndarray, "n e"]]


@dataclasses.dataclass(frozen=True)
class Maker:
    """Whose vectors an index holds: known without loading the model.

    path: the model's folder; identity: tells it from any other, in JSON; preprocessing in JSON,
    with `size`; load: called when the first picture has to be embedded; frames: of a video that
    the model looks at.
    """

    path: Path
    identity: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    storage: Storage
    load: Callable[[], Encoder]
    frames: int = 1


@dataclasses.dataclass(frozen=True)
class Updated:
    """What an update did, in pictures. dropped: rows of the index before whose pictures are gone,
    or were embedded again; tasks: whose parts were taken over."""

    before: Facts | None
    facts: Facts
    embedded: int
    dropped: int = 0
    tasks: int = 0

    def summary(self, out: Path) -> str:
        """In one line."""
        done = f"embedded {self.embedded:,}, dropped {self.dropped:,}"
        if self.facts == self.before:
            done = "nothing changed"
        if self.tasks:
            done = f"joined {self.tasks} tasks, {done}"
        return f"{out}: {self.facts.rows:,} pictures; {done}; {in_words(dict(self.facts.skipped))}"


def update(out: Path, source: Source, maker: Maker, size: int = PART_ROWS) -> Updated:
    """Makes the index in `out` hold the pictures of a source; size: rows of a part.

    A killed update is taken up after its finished parts. UserError where the index is of another
    model, storage or collection, where another process writes it, and where no picture can be
    used; the index is then as it was.
    """
    with claimed(out):
        before = read_facts(out) if (out / INDEX_FILE).exists() else None
        if before is not None:
            refuse_other(out, before, source, maker)
        with adopted(out, made_by_of(source, maker)) as tasks:
            done = _update(out, before, source, maker, size)
            for folder in tasks:
                shutil.rmtree(folder)
        return dataclasses.replace(done, tasks=len(tasks))


def _update(out: Path, before: Facts | None, source: Source, maker: Maker, size: int) -> Updated:
    made_by = made_by_of(source, maker)
    parts = usable_parts(out, before, made_by)
    whole = before is not None and list(before.parts) == parts
    listed = (out / SKIPPED_FILE).exists()  # who removes it has all of it looked at again
    if before is not None and whole and listed and source.state and _state(before) == source.state:
        return Updated(before, before, 0)
    plan = make_plan(out, source, parts, size)
    writer = PartsWriter(out, maker.storage, made_by, size)
    done = _write(out, source, maker, plan, writer)
    kept = [part for part in parts if part.number in plan.untouched]
    final = (*kept, *writer.finish())
    skipped = [*plan.skipped, *done.skipped]
    counts = dict(Counter(one.reason for one in skipped))
    refused = not final and source.task is None
    as_it_was = refused and before is not None  # and the list with it
    if not as_it_was and (not listed or skipped != read_skipped(out)):
        write_skipped(out, skipped)
    if refused:
        what = "video" if source.location["kind"] == VIDEOS else "picture"
        place = _place(source.location)
        why = in_words(counts, listed=not as_it_was)
        raise UserError(f"no {what} of {place} can be used: {why}")
    facts = _facts(out, source, maker, final, counts)
    if facts != before:
        write_facts(out, facts)
    for number in set(part_numbers(out)) - {part.number for part in final}:
        remove_part(out, number)
    return Updated(before, facts, done.embedded, _dropped(before, plan, done))


def refuse_other(out: Path, before: Facts, source: Source, maker: Maker) -> None:
    """UserError where the index is not one that this update could go on with."""
    remedy = f"choose another --out, or remove {out}"
    found = {name: before.model.get(name) for name in maker.identity}
    if found != maker.identity:
        raise UserError(
            f"{out} was made with {before.model['path']} {_shown(found)} and {maker.path} is now "
            f"{_shown(maker.identity)}, whose vectors do not mix: {remedy}"
        )
    if before.storage != maker.storage:
        raise UserError(
            f"{out} keeps {before.storage}, not {maker.storage}: name that in --dtype, or {remedy}"
        )
    place = {name: value for name, value in before.images.items() if name != "state"}
    moved = {**place, "path": source.location["path"]} == source.location
    old = Path(place["path"])
    moved &= not old.exists() or str(old.resolve()) == source.location["path"]
    if place != source.location and not moved:
        raise UserError(f"{out} is the index of {_place(place)}: {remedy}")


def _place(location: Mapping[str, Any]) -> str:
    path = "#".join(filter(None, (location["path"], location.get("split"))))
    return f"{path} in pieces of {location['seconds']:g} s" if "seconds" in location else path


def _shown(identity: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:12]}" for name, value in identity.items())


def _state(before: Facts) -> str | None:
    return before.images.get("state")


def made_by_of(source: Source, maker: Maker) -> dict[str, Any]:
    """What parts must have been made by to be taken from a killed run, or from a task."""
    kind = {name: value for name, value in source.location.items() if name != "path"}
    return {**maker.identity, "dtype": str(maker.storage), **kind}


def usable_parts(out: Path, before: Facts | None, made_by: Mapping[str, Any]) -> list[Part]:
    """Those of the index that are as they were written, then those that a killed run finished."""
    listed = [] if before is None else before.parts
    whole = [part for part in listed if fault(out, part) is None]
    others = sorted(set(part_numbers(out)) - {part.number for part in listed})
    found = (find_part(out, number, made_by) for number in others)
    return [*whole, *(part for part in found if part is not None)]


@dataclasses.dataclass(frozen=True, slots=True)
class _Same:
    """A picture or video that was touched and is still the same."""

    entry: Entry
    place: Place


@dataclasses.dataclass(frozen=True, slots=True)
class _Decoded:
    """What is to be embedded: a row for each piece."""

    rows: Sequence[Row]
    frames: Sequence[UInt8[np.ndarray, "t s s 3"]]


@dataclasses.dataclass(frozen=True)
class _Done:
    embedded: int
    skipped: Sequence[Skipped]
    copied: Counter[int]  # rows of the plan's parts, by their places in its list


def _write(out: Path, source: Source, maker: Maker, plan: Plan, writer: PartsWriter) -> _Done:
    """Rows that stay of parts that do not, then the suspects, in batches."""
    old = OldRows(out, plan.parts)
    for number, rows in plan.left.items():
        old.copy(number, rows, writer)
    encoder = functools.cache(maker.load)
    view = View(maker.preprocessing["size"], maker.frames)
    waiting: list[_Same | _Decoded] = []
    skipped: list[Skipped] = []
    embedded = rows = 0  # rows: that wait

    def flush() -> None:
        decoded = [one for one in waiting if isinstance(one, _Decoded)]
        fresh = _embed(encoder(), decoded, source) if decoded else iter(())
        for one in waiting:
            writer.add(_touched(old, one) if isinstance(one, _Same) else next(fresh))
        waiting.clear()

    # a batch is decoded while another is embedded; videos are many pictures each
    ahead = None if source.location["kind"] == VIDEOS else EMBED_BATCH
    for found in _looked_at(functools.partial(_look, plan.known, view), plan.suspects, ahead):
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        waiting.append(found)
        embedded += len(found.rows) if isinstance(found, _Decoded) else 0
        rows += len(found.rows) if isinstance(found, _Decoded) else 1
        if rows >= EMBED_BATCH:
            flush()
            rows = 0
    flush()
    return _Done(embedded, skipped, old.given)


def _looked_at(
    look: Callable[[Entry], _Same | _Decoded | Skipped],
    suspects: Sequence[Entry],
    ahead: int | None,
) -> Iterator[_Same | _Decoded | Skipped]:
    if suspects:  # no progress line about nothing
        with strict_decoding():
            yield from in_order(look, track(suspects, "embedding"), ahead=ahead)


def _look(known: Mapping[str, Place], view: View, entry: Entry) -> _Same | _Decoded | Skipped:
    place = known.get(entry.name)
    try:
        content = entry.read()
    except PictureError as fault:
        return _unread(entry, place, fault)
    if place is not None and place.digest == content.digest:
        return _Same(entry, place)
    try:
        pieces = content.pieces(view)
    except PictureError as fault:
        return Skipped(entry.name, str(fault), entry.stamp)
    row = Row(entry.name, content.captions, entry.stamp, content.digest, entry.source)
    rows = [dataclasses.replace(row, start=piece.start, end=piece.end) for piece in pieces]
    return _Decoded(rows, [piece.frames for piece in pieces])


def _unread(entry: Entry, place: Place | None, fault: PictureError) -> _Same | Skipped:
    """Where the system has refused, nothing is known of the picture: it keeps the row that it has,
    under the stamp of then, so that the next update reads it again."""
    if not isinstance(fault.__cause__, OSError):
        return Skipped(entry.name, str(fault), entry.stamp)
    if place is None:
        return Skipped(entry.name, str(fault))
    return _Same(dataclasses.replace(entry, stamp=place.stamp), place)


def _touched(old: OldRows, same: _Same) -> list[Stored]:
    """The rows of a file that was touched; its new stamp and source are known from now on."""
    found = [old.row(same.place.part, row) for row in same.place.rows]
    now = {"stamp": same.entry.stamp, "source": same.entry.source}
    return [Stored(dataclasses.replace(one.row, **now), one.vectors) for one in found]


def _embed(
    encoder: Encoder, decoded: Sequence[_Decoded], source: Source
) -> Iterator[Sequence[Stored]]:
    """The rows of each with their vectors by kind."""
    frames = [clip for one in decoded for clip in one.frames]
    by_kind = {IMAGES: check_embeddings(encoder.images(frames), "picture")}
    if source.has_captions:
        texts = [(*row.captions, "")[0] for one in decoded for row in one.rows]
        by_kind[TEXTS] = check_embeddings(encoder.texts(texts), "caption")
    vectors = zip(*by_kind.values(), strict=True)
    for one in decoded:
        yield [Stored(row, dict(zip(by_kind, next(vectors), strict=True))) for row in one.rows]


def _dropped(before: Facts | None, plan: Plan, done: _Done) -> int:
    """Beside the parts of the index before there may be some of a killed run, and of tasks."""
    if before is None:
        return 0
    own = {part.number for part in before.parts}
    stay = (
        part.rows if part.number in plan.untouched else done.copied[place]
        for place, part in enumerate(plan.parts)
        if part.number in own
    )
    return before.rows - sum(stay)


def _facts(
    out: Path, source: Source, maker: Maker, parts: tuple[Part, ...], skipped: Mapping[str, int]
) -> Facts:
    where = {
        "path": str(maker.path.resolve()),
        "relative": os.path.relpath(maker.path.resolve(), out.resolve()),
    }
    state = {"state": source.state} if source.state else {}
    return Facts(
        images={**source.location, **state},
        model={**where, **maker.identity},
        preprocessing=dict(maker.preprocessing),
        width=part_vectors(out, parts[0], IMAGES).shape[1] if parts else 0,
        storage=maker.storage,
        skipped=dict(skipped),
        parts=parts,
    )
