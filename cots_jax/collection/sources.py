# SPDX-License-Identifier: Apache-2.0
"""What can be indexed: a folder of pictures, a tar of them, or a split of a prepared folder."""

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cots_jax.data.decoding import decode_picture
from cots_jax.data.frames import middle_frames
from cots_jax.data.pictures import decode_file
from cots_jax.data.prepare.captions import is_unicode
from cots_jax.data.prepare.images import safe_name
from cots_jax.data.prepare.pictures import MAX_BYTES, PictureError
from cots_jax.data.prepare.tar_file import TarFile, open_tar, tar_members
from cots_jax.data.prepare.tars import PICTURES, Span, is_end_mark
from cots_jax.data.prepare.tasks import Task
from cots_jax.data.records import FACTS_FILE, Record, Split, list_splits, open_split
from cots_jax.errors import UserError

FOLDER, TAR, SPLIT, VIDEOS = "folder", "tar", "split", "videos"  # kinds of sources


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """What a model looks at: pixels a side, and frames of a video."""

    size: int
    frames: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """What becomes one row: a picture (t = 1), or a video from `start` to `end` seconds."""

    frames: UInt8[np.ndarray, "t s s 3"]
    start: float | None = None
    end: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """What a file or record holds. digest: SHA-256 of all of it; `pieces` decodes it and raises
    PictureError; image: the bytes that show it, none of a video file."""

    digest: str
    pieces: Callable[[View], Sequence[Piece]]
    image: bytes = b""
    captions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A picture or video. Equal stamps: it was not touched. `read` raises PictureError. source:
    where a record came from, which a folder that is prepared anew may say otherwise."""

    name: str
    stamp: str
    read: Callable[[], Content]
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """What is not in the index, and why; the stamp is empty where it has not been read."""

    name: str
    reason: str
    stamp: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """A collection; `location` is its kind and where it lies, in JSON.

    state: equal states are equal collections, to be known without a look at each picture; None
    where there is no such thing. task: whose share of it this is, which may be empty.
    """

    location: dict[str, Any]
    entries: Callable[[], Iterator[Entry | Skipped]]
    state: str | None = None
    task: Task | None = None

    @property
    def has_captions(self) -> bool:
        """Whether captions stand beside the pictures."""
        return self.location["kind"] == SPLIT


@contextlib.contextmanager
def open_source(images: str, out: Path) -> Generator[Source]:
    """Opens what `--images` names; files below `out` are left out. UserError."""
    path = Path(images)
    folder, mark, split = images.rpartition("#")
    if path.is_dir():
        if (path / FACTS_FILE).is_file():
            splits = ", ".join(f"--images={images}#{name}" for name in list_splits(path))
            raise UserError(f"{images} is a prepared folder: name one of its splits, {splits}")
        root, without = path.resolve(), out.resolve()
        location = {"kind": FOLDER, "path": str(root)}
        yield Source(location, lambda: folder_entries(root, without, _picture_entry))
    elif path.exists():
        yield Source({"kind": TAR, "path": str(path.resolve())}, lambda: tar_entries(path))
    elif mark and folder and split:
        with open_split(folder, split) as opened:
            location = {"kind": SPLIT, "path": str(Path(folder).resolve()), "split": split}
            state = opened.facts["fingerprint"]
            yield Source(location, lambda: _split_entries(opened), state)
    else:
        raise UserError(
            f"--images={images} does not exist: give a folder or an uncompressed tar of pictures, "
            "or FOLDER#SPLIT of a prepared folder"
        )


def folder_entries(
    root: Path, without: Path, entry: Callable[[Path, str, os.stat_result], Entry | Skipped]
) -> Iterator[Entry | Skipped]:
    """All files below a folder by their names; hidden ones are left out, as by file browsers.

    root: without links. entry: of a file that may be read, by its path, its name below the folder,
    and the facts of it.
    """
    unreadable: list[str] = []
    for folder, below, files in os.walk(root, onerror=lambda e: unreadable.append(e.filename)):
        here = Path(folder)
        kept = (name for name in below if name[0] != "." and here / name != without)
        below[:] = sorted(kept)
        links = [name for name in below if (here / name).is_symlink()]  # not walked into
        inside = "" if here == root else f"{here.relative_to(root).as_posix()}/"
        for own_name in sorted([*links, *(name for name in files if name[0] != ".")]):
            path, name = here / own_name, inside + own_name
            found = _walked_file(path, name, root)
            yield found if isinstance(found, Skipped) else entry(path, name, found)
    for name in unreadable:
        yield Skipped(Path(name).relative_to(root).as_posix(), "folder_unreadable")


def file_entry(path: Path, name: str, root: Path) -> Entry | Skipped:
    """A picture of a folder by its path and its name below that."""
    found = regular_file(path, name, root)
    return found if isinstance(found, Skipped) else _picture_entry(path, name, found)


def _picture_entry(path: Path, name: str, found: os.stat_result) -> Entry | Skipped:
    if not _is_picture(name):
        return Skipped(name, "file_ending_unknown")
    if found.st_size > MAX_BYTES:
        return Skipped(name, "picture_too_large")
    return Entry(name, stamp_of(found), lambda: _picture(_bytes(path)))


def _walked_file(path: Path, name: str, root: Path) -> os.stat_result | Skipped:
    """`regular_file` of a path on which no folder is a link: only a link has to be followed."""
    try:
        found = path.lstat()
    except OSError:
        found = None
    if found is not None and stat.S_ISREG(found.st_mode) and is_unicode(name):
        return found
    return regular_file(path, name, root)


def regular_file(path: Path, name: str, root: Path) -> os.stat_result | Skipped:
    """The facts of a file that may be read: no pipe, and no link that leads out of the folder."""
    if not is_unicode(name):  # it could not stand in the metadata
        return Skipped(repr(name), "file_name_not_utf8")
    if not Path(os.path.realpath(path)).is_relative_to(root):
        return Skipped(name, "file_outside_folder")
    try:
        found = path.stat()
    except OSError:
        return Skipped(name, "file_not_regular")  # a link that leads nowhere, or round
    if stat.S_ISDIR(found.st_mode):
        return Skipped(name, "link_to_folder")
    return found if stat.S_ISREG(found.st_mode) else Skipped(name, "file_not_regular")


def stamp_of(found: os.stat_result) -> str:
    """A file's size and time of change."""
    return f"{found.st_size}:{found.st_mtime_ns}"


def _picture(data: bytes) -> Content:
    digest = hashlib.sha256(data).hexdigest()
    return Content(digest, lambda view: [Piece(decode_file(data, view.size)[None])], data)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PictureError("picture_unreadable") from error


def _is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in PICTURES


def tar_entries(path: Path) -> Iterator[Entry | Skipped]:
    """The members of a tar in its order; of two with one name the later counts, as in unpacking."""
    touched = path.stat().st_mtime_ns
    found: dict[str, Entry | Skipped] = {}
    try:
        file = TarFile(path)
        with open_tar(file) as tar:
            for member in tar_members(tar):
                if not member.isdir():
                    entry = _member_entry(file, member, touched)
                    found[entry.name] = entry
            file.seek(tar.offset)
            if not is_end_mark(file.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"no member and no end mark at byte {tar.offset:,}")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(
            f"--images={path} is no whole uncompressed tar ({error}): give a folder or a tar, "
            "decompressed (`gunzip FILE.tar.gz`) so that it can be read in any order"
        ) from error
    yield from found.values()


def _member_entry(file: TarFile, member: tarfile.TarInfo, touched: int) -> Entry | Skipped:
    if not is_unicode(member.name):
        return Skipped(repr(member.name), "file_name_not_utf8")
    try:
        name = safe_name(member.name)
    except PictureError as fault:
        return Skipped(member.name, str(fault))
    if not member.isreg():
        return Skipped(name, "file_not_regular")
    if not _is_picture(name):
        return Skipped(name, "file_ending_unknown")
    if member.offset_data + member.size > file.length:
        return Skipped(name, "picture_unreadable")
    span = Span(file, member.offset_data, member.size)
    return Entry(name, f"{member.size}:{touched}", lambda: _picture(span.read()))


def _split_entries(split: Split) -> Iterator[Entry | Skipped]:
    """The records in stored order; they are read to be listed, so their content is their stamp."""
    films = split.frames > 0
    for row in range(len(split)):
        record = split.record(row)
        stamp = _content(record, films).digest
        yield Entry(
            record.id,
            stamp,
            lambda row=row: _content(split.record(row), films),
            record.source_row,
        )


def _content(record: Record, films: bool) -> Content:
    """Of the bytes alone where there are no captions. films: among videos, a picture is one too."""
    digest = hashlib.sha256(b"".join(record.frames) or record.image)
    if record.captions:
        digest.update(json.dumps(record.captions).encode())

    def pieces(view: View) -> list[Piece]:
        stored = record.frames or (record.image,)
        wanted = middle_frames(len(stored), view.frames if films else 1)
        return [Piece(np.stack([_decode_record(stored[frame], view.size) for frame in wanted]))]

    return Content(digest.hexdigest(), pieces, record.image, record.captions)


def _decode_record(image: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """As evaluation decodes what `prepare` has written."""
    try:
        return decode_picture(image, size)
    except Exception as error:  # Pillow raises some dozen classes on broken files
        raise PictureError("picture_unreadable") from error
