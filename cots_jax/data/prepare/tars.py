# SPDX-License-Identifier: Apache-2.0
"""Samples of a webdataset tar: neighbouring members whose names differ in their endings only."""

import json
import os
import pathlib
import tarfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, cast

from cots_jax.data.prepare.images import safe_name
from cots_jax.data.prepare.pictures import MAX_BYTES, PictureError
from cots_jax.data.prepare.samples import BadRow

PICTURES = ("jpg", "jpeg", "png", "webp", "gif")
TEXTS = ("txt", "json")
AHEAD = 2**15  # bytes
MOST_TEXT = 2**20  # bytes of a caption file; own choice


class TarFile:
    """The bytes of a tar, for the tar reader and for any thread that reads a member.

    Read ahead, since a call of the system for each step costs more than small pictures do; closed
    when the last of its members has been let go.
    """

    def __init__(self, path: pathlib.Path):
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self.length = os.fstat(self._file).st_size
        self._at = 0
        self._ahead = b""
        self._ahead_from = 0

    def pread(self, size: int, offset: int) -> bytes:
        """Bytes of a member; OSError."""
        return os.pread(self._file, size, offset)

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a place of the file: the tar reader asks for no other kind."""
        assert whence == os.SEEK_SET
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        if size < 0:
            size = max(0, self.length - self._at)
        if size > AHEAD:
            found = self.pread(size, self._at)
        else:
            first = self._at - self._ahead_from
            if not 0 <= first <= len(self._ahead) - size:
                self._ahead, self._ahead_from, first = self.pread(AHEAD, self._at), self._at, 0
            found = self._ahead[first : first + size]
        self._at += len(found)
        return found


@dataclass(frozen=True)
class Span:
    """Where a member's bytes lie in the tar."""

    tar: TarFile
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes; PictureError."""
        if self.size > MAX_BYTES:
            raise PictureError("picture_too_large")
        try:
            return self.tar.pread(self.size, self.offset)
        except OSError as error:
            raise PictureError("picture_unreadable") from error


@dataclass
class TarSample:
    """The members of one key: the picture's place, the texts as they are."""

    key: str
    picture: Span | None = None
    texts: dict[str, bytes] = field(default_factory=dict)  # by ending
    fault: str | None = None

    def text(self) -> str | None:
        """The caption of its own file."""
        data = self.texts.get("txt")
        return None if data is None else data.decode("utf-8-sig", "surrogateescape")

    def fields(self) -> Mapping[str, Any]:
        """The fields of its JSON file; none where there is no such object."""
        try:
            found = json.loads(self.texts.get("json", b"{}"))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def tar_samples(path: pathlib.Path, name: str) -> Iterator[TarSample | BadRow]:
    """The samples in the order of the tar; a BadRow where it ends too early or is none.

    Keys end at the first dot of a member's last name, as webdataset has it. `name`: of the tar, in
    rejects.
    """
    sample: TarSample | None = None
    broken: BadRow | None = None
    try:
        file = TarFile(path)
        # only these three are asked of a file that is read
        with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as tar:
            while (member := tar.next()) is not None:
                vars(tar)["members"].clear()  # it would keep a header of every member
                key, _, ending = _split(member.name)
                if not member.isreg() or ending not in PICTURES + TEXTS:
                    continue
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = TarSample(key)
                if member.offset_data + member.size > file.length:
                    raise tarfile.ReadError("unexpected end of data")
                span = Span(file, member.offset_data, member.size)
                _take(sample, span, ending)
            file.seek(tar.offset)
            if not is_end_mark(file.read(tarfile.BLOCKSIZE)):
                # the tar reader takes bytes that are no header for the end
                raise tarfile.ReadError(f"no member and no end mark at byte {tar.offset:,}")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        broken = file_unreadable(name, error)
    if sample is not None:
        yield sample
    if broken is not None:
        yield broken


def file_unreadable(name: str, error: Exception) -> BadRow:
    """The reject of a file that is broken as a whole or from some place on."""
    return BadRow("file_unreadable", name, name, (("error", str(error)[:200]),))


def is_end_mark(block: bytes) -> bool:
    """Whether a block is the one of zeros after the last member (POSIX.1, ustar)."""
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _split(member: str) -> tuple[str, str, str]:
    folder, slash, last = member.rpartition("/")
    stem, dot, ending = last.partition(".")
    return folder + slash + stem, dot, ending.lower()


def _take(sample: TarSample, span: Span, ending: str) -> None:
    try:
        safe_name(sample.key)
    except PictureError as fault:
        sample.fault = str(fault)
        return
    if ending in PICTURES:
        sample.picture = span
    elif span.size > MOST_TEXT:
        sample.fault = "caption_too_long"
    else:
        span.tar.seek(span.offset)
        sample.texts[ending] = span.tar.read(span.size)
