# SPDX-License-Identifier: Apache-2.0
"""What can be indexed: a folder of pictures, a tar of them, or a split of a prepared folder."""

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cots_jax.data.decoding import decode_picture
from cots_jax.data.pictures import decode_file
from cots_jax.data.prepare.captions import is_unicode
from cots_jax.data.prepare.images import safe_name
from cots_jax.data.prepare.pictures import MAX_BYTES, PictureError
from cots_jax.data.prepare.tar_file import TarFile, open_tar, tar_members
from cots_jax.data.prepare.tars import PICTURES, Span, is_end_mark
from cots_jax.data.records import FACTS_FILE, Record, Split, list_splits, open_split
from cots_jax.errors import UserError

FOLDER, TAR, SPLIT = "folder", "tar", "split"  # kinds of sources


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a picture, with the captions that stand beside it."""

    image: bytes
    captions: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256; of the bytes alone where there are no captions."""
        found = hashlib.sha256(self.image)
        if self.captions:
            found.update(json.dumps(self.captions).encode())
        return found.hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A picture of a source. Equal stamps: it was not touched. `read` raises PictureError."""

    name: str
    stamp: str
    read: Callable[[], Content]


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """What is not in the index, and why; the stamp is empty where it has not been read."""

    name: str
    reason: str
    stamp: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """A collection; `location` is its kind and where it lies, in JSON.

    decode: a picture's bytes to the size of a tower; PictureError. state: equal states are equal
    collections, to be known without a look at each picture; None where there is no such thing.
    """

    location: dict[str, Any]
    entries: Callable[[], Iterator[Entry | Skipped]]
    decode: Callable[[bytes, int], UInt8[np.ndarray, "s s 3"]] = decode_file
    state: str | None = None

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
        yield Source(location, lambda: _folder_entries(root, without))
    elif path.exists():
        yield Source({"kind": TAR, "path": str(path.resolve())}, lambda: tar_entries(path))
    elif mark and folder and split:
        with open_split(folder, split) as opened:
            location = {"kind": SPLIT, "path": str(Path(folder).resolve()), "split": split}
            state = opened.facts["fingerprint"]
            yield Source(location, lambda: _split_entries(opened), _decode_record, state)
    else:
        raise UserError(
            f"--images={images} does not exist: give a folder or an uncompressed tar of pictures, "
            "or FOLDER#SPLIT of a prepared folder"
        )


def _folder_entries(root: Path, without: Path) -> Iterator[Entry | Skipped]:
    """All files below a folder by their names; hidden ones are left out, as by file browsers."""
    unreadable: list[str] = []
    for folder, below, files in os.walk(root, onerror=lambda e: unreadable.append(e.filename)):
        here = Path(folder)
        kept = (name for name in below if name[0] != "." and here / name != without)
        below[:] = sorted(kept)
        links = [name for name in below if (here / name).is_symlink()]  # not walked into
        for name in sorted([*links, *(name for name in files if name[0] != ".")]):
            path = here / name
            yield file_entry(path, path.relative_to(root).as_posix(), root)
    for name in unreadable:
        yield Skipped(Path(name).relative_to(root).as_posix(), "folder_unreadable")


def file_entry(path: Path, name: str, root: Path) -> Entry | Skipped:
    """A file below a folder as it is now: a regular picture within it, or why not."""
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
    if not stat.S_ISREG(found.st_mode):
        return Skipped(name, "file_not_regular")
    if not _is_picture(name):
        return Skipped(name, "file_ending_unknown")
    if found.st_size > MAX_BYTES:
        return Skipped(name, "picture_too_large")
    return Entry(name, f"{found.st_size}:{found.st_mtime_ns}", lambda: Content(_bytes(path)))


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
    return Entry(name, f"{member.size}:{touched}", lambda: Content(span.read()))


def _split_entries(split: Split) -> Iterator[Entry | Skipped]:
    """The records in stored order; they are read to be listed, so their content is their stamp."""
    for row in range(len(split)):
        record = split.record(row)
        stamp = _content(record).digest()
        yield Entry(record.id, stamp, lambda row=row: _content(split.record(row)))


def _content(record: Record) -> Content:
    return Content(record.image, record.captions)


def _decode_record(image: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """As evaluation decodes what `prepare` has written."""
    try:
        return decode_picture(image, size)
    except Exception as error:  # Pillow raises some dozen classes on broken files
        raise PictureError("picture_unreadable") from error
