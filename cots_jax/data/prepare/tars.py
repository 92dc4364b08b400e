# SPDX-License-Identifier: Apache-2.0
"""Samples of a webdataset tar: neighbouring members whose names differ in their endings only."""

import json
import pathlib
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cots_jax.data.prepare.images import safe_name
from cots_jax.data.prepare.pictures import MAX_BYTES, PictureError
from cots_jax.data.prepare.samples import BadRow
from cots_jax.data.prepare.tar_file import AHEAD, TarFile, open_tar, tar_members

PICTURES = ("jpg", "jpeg", "png", "webp", "gif")
TEXTS = ("txt", "json")
MOST_TEXT = 2**20  # bytes of a caption file; own choice


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
    shorter: str = ""  # the key up to the first dot, where that one is longer
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

    Keys end at the first dot of a member's last name, as webdataset has it; where what follows is
    no ending that is known, at its last one, unless it stands beside a sample that has the key.
    `name`: of the tar, in rejects.
    """
    sample: TarSample | None = None
    broken: BadRow | None = None
    try:
        file = TarFile(path)
        with open_tar(file) as tar:
            for member in tar_members(tar):
                written = member.name.encode(errors="backslashreplace").decode()
                key, ending, shorter = _split(written, sample)
                if not member.isreg() or not ending or _is_of_macos(member.name):
                    continue
                if sample is None or sample.key != key:
                    if sample is not None and not _is_part(sample, of=key):
                        yield sample
                    sample = TarSample(key, shorter)
                if member.offset_data + member.size > file.length:
                    raise tarfile.ReadError("unexpected end of data")
                span = Span(file, member.offset_data, member.size)
                _take(sample, span, ending)
                if written != member.name:  # it could not stand in a record
                    sample.fault = "image_name_not_utf8"
            file.seek(tar.offset)
            if not is_end_mark(file.read(tarfile.BLOCKSIZE)):
                # the tar reader takes bytes that are no header for the end
                raise tarfile.ReadError(f"no member and no end mark at byte {tar.offset:,}")
            if not _ends_in_zeros(file):
                # such as a second tar; unpacking does not look there either
                raise tarfile.ReadError(f"bytes after the end mark at byte {tar.offset:,}")
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


def _ends_in_zeros(file: TarFile) -> bool:
    """Whether nothing but padding is left to be read."""
    while block := file.read(AHEAD):
        if block.strip(b"\0"):
            return False
    return True


def _is_of_macos(member: str) -> bool:
    """Whether it is what macOS packs beside a file: `._7.jpg` or `__MACOSX/7.jpg`, no picture."""
    *folders, last = member.split("/")
    return last.startswith("._") or "__MACOSX" in folders


def _split(member: str, beside: TarSample | None) -> tuple[str, str, str]:
    """Key, ending and, where the key has dots, what it is up to the first; no ending for what is
    not read."""
    folder, slash, last = member.rpartition("/")
    stem, _, ending = last.partition(".")
    shorter = folder + slash + stem
    if ending.lower() in PICTURES + TEXTS:
        return shorter, ending.lower(), ""
    if beside is not None and beside.key == shorter:
        return shorter, "", ""  # `7.seg.png` of the sample `7`
    stem, _, ending = last.rpartition(".")
    known = ending.lower() if ending.lower() in PICTURES + TEXTS else ""
    return folder + slash + stem, known, shorter


def _is_part(sample: TarSample, of: str) -> bool:
    """Whether a sample is none, but something beside the next one: `7.seg.png` before `7.jpg`."""
    return sample.shorter == of and not (sample.picture and sample.texts)


def _take(sample: TarSample, span: Span, ending: str) -> None:
    try:
        safe_name(sample.key)
    except PictureError as fault:
        sample.fault = str(fault)
        return
    if ending in PICTURES:
        if sample.picture is not None:
            sample.fault = "picture_name_ambiguous"
        sample.picture = span
    elif span.size > MOST_TEXT:
        sample.fault = "caption_too_long"
    else:
        span.tar.seek(span.offset)
        sample.texts[ending] = span.tar.read(span.size)
