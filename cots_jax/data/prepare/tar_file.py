# SPDX-License-Identifier: Apache-2.0
"""The bytes and the members of a tar, from whoever made it."""

import os
import pathlib
import tarfile
import weakref
from collections.abc import Iterator
from typing import IO, cast

AHEAD = 2**15  # bytes
MOST_READ = 2**24  # bytes of a header that the tar reader asks for at once


class TarFile:
    """The bytes of a tar, for the tar reader and for any thread that reads a member.

    Read ahead, since a call of the system for each step costs more than small pictures do; closed
    when the last of its members has been let go.
    """

    def __init__(self, path: pathlib.Path):
        self._file = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._file)  # at most once
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
        left = max(0, self.length - self._at)
        size = left if size < 0 else min(size, left)
        if size > MOST_READ:
            raise tarfile.ReadError(f"a header of {size:,} bytes at byte {self._at:,}")
        if size > AHEAD:
            found = self.pread(size, self._at)
        else:
            first = self._at - self._ahead_from
            if not 0 <= first <= len(self._ahead) - size:
                self._ahead, self._ahead_from, first = self.pread(AHEAD, self._at), self._at, 0
            found = self._ahead[first : first + size]
        self._at += len(found)
        return found


def open_tar(file: TarFile) -> tarfile.TarFile:
    """The reader of an uncompressed tar; tarfile.TarError where it is none."""
    # of a file that is read only, `tell`, `seek` and `read` are asked
    return tarfile.open(fileobj=cast(IO[bytes], file), mode="r:")


def tar_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members in their order, in the memory of one. tarfile.TarError where they go backwards:
    a size below zero would be read for ever."""
    end = 0
    while (member := tar.next()) is not None:
        vars(tar)["members"].clear()  # it would keep a header of every member
        if member.size < 0 or member.offset < end:
            raise tarfile.ReadError(f"member of {member.size} bytes at byte {member.offset}")
        end = member.offset_data
        yield member
