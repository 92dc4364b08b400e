# SPDX-License-Identifier: Apache-2.0
"""Prepared splits as one table of (image, caption) pairs, read at random by any thread."""

import collections
import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from jaxtyping import Int, Int32, UInt8

from cots_jax.data import records
from cots_jax.data.decoding import decode_picture
from cots_jax.data.frames import (
    DecodedFrames,
    FrameChoice,
    chosen_frames,
    empty_frames,
    middle_frames,
    middle_offsets,
)
from cots_jax.data.image_tokens import open_tokens, shared_facts
from cots_jax.data.mixture import Mixture, Segment
from cots_jax.data.tokenizer import Encoded, Tokenizer
from cots_jax.data.weights import ONCE, Weight
from cots_jax.errors import UserError
from cots_jax.switches import Cache

MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded pictures that AUTO keeps
KEPT_AT_ONCE = 64  # records; handing out each by itself costs more than decoding a small one


@dataclasses.dataclass(frozen=True)
class Source:
    """One prepared folder and the split of it that is read, and how much of it comes."""

    folder: str
    split: str
    weight: Weight = ONCE

    @property
    def written(self) -> str:
        """As a config names it."""
        weight = "" if self.weight == ONCE else f"*{self.weight}"
        return f"{self.folder}#{self.split}{weight}"


class PairTable:
    """All (image, caption) pairs of some sources as one table; safe in threads.

    Rows are pairs, in the order of the sources and of `pair_table()` within each. Record numbers
    and group ids go on counting from source to source, so that they never collide. With a
    `token_grid` above 0 its batches hold the image tokens made ahead of time, where there are any
    (`token_facts`); they must be of that many patches a side.

    frames: t of a video, one out of each of t equal segments of those that are stored; with 1 a
    video is its middle frame. A picture among videos is a film of t equal frames, whose feature is
    that of the picture (own choice); a table of pictures alone has no use for more than 1.
    """

    group_of_record: Int32[np.ndarray, "r"]
    record_of_pair: Int32[np.ndarray, "p"]
    caption_of_pair: Int32[np.ndarray, "p"]  # its number within the record
    source_of_pair: Int32[np.ndarray, "p"]

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        *,
        size: int,
        length: int,
        cache: Cache = Cache.AUTO,
        threads: int | None = None,
        token_grid: int = 0,
        frames: int = 1,
        frame_choice: FrameChoice = FrameChoice.DRAWN,
    ):
        if not sources:
            raise UserError("no data source named: give at least one prepared folder")
        self.sources = tuple(sources)
        self.tokenizer, self.size, self.length = tokenizer, size, length
        self.frames, self._frame_choice = frames, frame_choice
        self._splits = [records.open_split(source.folder, source.split) for source in sources]
        self._first_record = _starts([len(split) for split in self._splits])
        self.records = int(self._first_record[-1])
        self.group_of_record = _join_groups(self._splits)
        table = _join_pairs(self._splits, self._first_record)
        self.pairs = len(table)
        self.record_of_pair = table[:, 0]
        self.caption_of_pair = table[:, 1]
        self.source_of_pair = table[:, 2]
        if not self.pairs:
            names = ", ".join(f"{source.folder}:{source.split}" for source in self.sources)
            raise UserError(f"no pairs in {names}")
        self._check_frames()
        self.order(0)  # its errors come before pictures are read
        folders = [source.folder for source in sources]
        self.token_facts = shared_facts(folders, size, token_grid) if token_grid else None
        self._tokens = (
            [open_tokens(f, s) for f, s in zip(folders, self._splits)] if self.token_facts else []
        )
        self._images: DecodedFrames | None = None
        self._texts: Encoded | None = None
        room = np.repeat(
            [self._room(split) for split in self._splits], list(map(len, self._splits))
        )
        self.cache = _choose(cache, int(room.sum()) * size**2 * 3)
        if self.cache == Cache.MEMORY:
            self._fill_memory(room, threads or os.cpu_count() or 1)

    @property
    def weights(self) -> tuple[Weight, ...]:
        """How much of each source comes."""
        return tuple(source.weight for source in self.sources)

    def _check_frames(self) -> None:
        if self.frames > 1 and not any(split.frames for split in self._splits):
            names = ", ".join(f"{source.folder}#{source.split}" for source in self.sources)
            raise UserError(
                f"config.data.frames = {self.frames}, and there is no video in {names}: set it to "
                "1, or name a folder that `prepare videos` or `prepare msrvtt` has made"
            )

    def _room(self, split: records.Split) -> int:
        """The most pictures that a record of the split is looked at for."""
        if self.frames == 1 or not split.frames:
            return 1
        drawn = self._frame_choice is FrameChoice.DRAWN
        return split.frames if drawn else min(self.frames, split.frames)

    @functools.cached_property
    def pairs_of_source(self) -> tuple[int, ...]:
        """How many pairs each source has."""
        return tuple(np.bincount(self.source_of_pair, minlength=len(self.sources)).tolist())

    def order(self, seed: int, segments: Sequence[Segment] = ()) -> Mixture:
        """The endless training order of these segments; without any, as the sources weigh."""
        names = tuple(f"{source.folder}#{source.split}" for source in self.sources)
        found = tuple(segments) or (Segment(0, self.weights),)
        return Mixture(self.pairs_of_source, names, found, seed)

    def __enter__(self) -> "PairTable":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file handles back; reading on opens them again."""
        for split in self._splits:
            split.close()

    def _fill_memory(self, room: np.ndarray, threads: int) -> None:
        images = DecodedFrames.with_room(room, self.size)
        captions: list[tuple[str, ...]] = [()] * self.records

        def keep(rows: range) -> None:
            for row in rows:
                record = self.record(row)
                images.keep(row, [self._decode(row, record, f) for f in self._shown(record)])
                captions[row] = record.captions

        rows = range(self.records)
        runs = [rows[first : first + KEPT_AT_ONCE] for first in rows[::KEPT_AT_ONCE]]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            collections.deque(pool.map(keep, runs), maxlen=0)
        pairs = zip(self.record_of_pair, self.caption_of_pair, strict=True)
        texts = self.tokenizer.encode([captions[row][number] for row, number in pairs], self.length)
        self._images, self._texts = images, texts

    def record(self, row: int | np.integer) -> records.Record:
        """A record by its number in the joined table."""
        source = self._source(row)
        return self._splits[source].record(int(row - self._first_record[source]))

    def images(
        self, rows: Int32[np.ndarray, "b"], offsets: Int[np.ndarray, "b t"] | None = None
    ) -> UInt8[np.ndarray, "b t s s 3"]:
        """The frames of these records, by default the middle ones of their segments."""
        if offsets is None:
            offsets = middle_offsets(len(rows), self.frames)
        if self._images is not None:
            return self._images.chosen(rows, offsets)
        return self._read_images(rows, [self.record(row) for row in rows], offsets)

    def _read_images(
        self, rows: np.ndarray, found: Sequence[records.Record], offsets: np.ndarray
    ) -> np.ndarray:
        shown = [self._shown(record) for record in found]
        chosen = chosen_frames(np.array([len(frames) for frames in shown]), offsets)
        films = empty_frames(chosen.shape, self.size)
        for film, row, record, frames, places in zip(
            films, rows, found, shown, chosen, strict=True
        ):
            first: dict[int, int] = {}  # where a frame that comes again stands already
            for place, frame in enumerate(places.tolist()):
                if (at := first.setdefault(frame, place)) < place:
                    film[place] = film[at]
                else:
                    film[place] = self._decode(row, record, frames[frame])
        return films

    def _shown(self, record: records.Record) -> tuple[bytes, ...]:
        """The JPEGs that a record is looked at by."""
        frames = record.frames
        if self.frames == 1 or not frames:
            return (record.image,)
        if self._frame_choice is FrameChoice.DRAWN or len(frames) <= self.frames:
            return frames
        # the middle ones of t segments of these are all of them
        return tuple(frames[i] for i in middle_frames(len(frames), self.frames))

    def texts(self, pairs: Int32[np.ndarray, "b"]) -> Encoded:
        """The token ids of these pairs' captions."""
        if self._texts is not None:
            return Encoded(self._texts.ids[pairs], self._texts.length[pairs])
        return self.tokenizer.encode(self.captions(pairs), self.length)

    def captions(self, pairs: Int32[np.ndarray, "b"]) -> list[str]:
        """These pairs' captions, read from the disk."""
        found = [self.record(row) for row in self.record_of_pair[pairs]]
        return self._captions(found, pairs)

    def image_tokens(self, rows: Int32[np.ndarray, "b"]) -> Int32[np.ndarray, "b n"] | None:
        """The ids of these records that were made ahead of time; None where none were asked for."""
        if self.token_facts is None:
            return None
        of = [(self._source(row), row) for row in rows]
        ids = [self._tokens[source][row - self._first_record[source]] for source, row in of]
        found = np.stack(ids).astype(np.int32)
        if found.min() < 0 or found.max() >= self.token_facts.codes:
            codes = f"{found.min()} to {found.max()} of {self.token_facts.codes}"
            raise UserError(f"image tokens are damaged (codes {codes}): make the ids again")
        return found

    def images_and_texts(
        self, pairs: Int32[np.ndarray, "b"], offsets: Int[np.ndarray, "b t"] | None = None
    ) -> "ImagesAndTexts":
        """Both sides of these pairs, each record read once; offsets as in `images`."""
        rows = self.record_of_pair[pairs]
        if self.cache == Cache.MEMORY:
            return ImagesAndTexts(self.images(rows, offsets), self.texts(pairs))
        if offsets is None:
            offsets = middle_offsets(len(rows), self.frames)
        found = [self.record(row) for row in rows]
        images = self._read_images(rows, found, offsets)
        return ImagesAndTexts(images, self._encode(found, pairs))

    def first_pairs(self) -> Int32[np.ndarray, "f"]:
        """The first pair of every record that has one."""
        return np.unique(self.record_of_pair, return_index=True)[1].astype(np.int32)

    def _source(self, row: int | np.integer) -> int:
        return int(np.searchsorted(self._first_record, row, side="right")) - 1

    def _decode(self, row: int | np.integer, record: records.Record, picture: bytes) -> np.ndarray:
        try:
            return decode_picture(picture, self.size)
        except Exception as error:  # Pillow raises some dozen classes on broken files
            source = self.sources[self._source(row)]
            raise UserError(
                f"the picture of record {record.id!r} in {source.folder}/{source.split} does not "
                f"decode ({error}): prepare {source.folder} again"
            ) from error

    def _encode(self, found: list[records.Record], pairs: np.ndarray) -> Encoded:
        return self.tokenizer.encode(self._captions(found, pairs), self.length)

    def _captions(self, found: list[records.Record], pairs: np.ndarray) -> list[str]:
        numbers = zip(found, self.caption_of_pair[pairs], strict=True)
        return [record.captions[number] for record, number in numbers]


@dataclasses.dataclass(frozen=True)
class ImagesAndTexts:
    """The two sides of some pairs."""

    images: UInt8[np.ndarray, "b t s s 3"]
    texts: Encoded


def _choose(cache: Cache, picture_bytes: int) -> Cache:
    if cache != Cache.AUTO:
        return cache
    return Cache.MEMORY if picture_bytes < MEMORY_LIMIT else Cache.NONE


def _join_pairs(splits: Sequence[records.Split], first_record: np.ndarray) -> np.ndarray:
    """[p, 3]: record, caption number and source of every pair."""
    parts = []
    for source, split in enumerate(splits):
        row, caption = split.pair_table().T
        row = row + first_record[source]
        parts.append(np.stack([row, caption, np.full_like(row, source)], axis=1))
    return np.concatenate(parts).astype(np.int32)


def _join_groups(splits: Sequence[records.Split]) -> np.ndarray:
    """[r]: group ids that differ between folders and agree between the splits of one folder."""
    start_of_folder: dict[str, int] = {}
    total, parts = 0, []
    for split in splits:
        folder = str(split.folder.resolve())
        if folder not in start_of_folder:
            start_of_folder[folder] = total
            total += split.facts["groups"]
        group = split.group_id
        parts.append(np.where(group >= 0, group + start_of_folder[folder], -1))
    return np.concatenate(parts).astype(np.int32)


def _starts(sizes: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
