# SPDX-License-Identifier: Apache-2.0
"""Where pictures come from: a folder or a tar, asked by the names that a table gives them."""

import hashlib
import os
import pathlib
import tarfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import TracebackType

from cots_jax.data.prepare.pictures import MAX_BYTES, PictureError
from cots_jax.data.prepare.tar_file import TarFile, open_tar, tar_members
from cots_jax.errors import UserError


def safe_name(name: str) -> str:
    """A picture's name relative to its source, `./a//b` as `a/b`.

    PictureError `picture_name_unsafe` for absolute names, `..`, drive letters and NUL.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or name[1:2] == ":":
        raise PictureError("picture_name_unsafe")
    if not parts:
        raise PictureError("picture_missing")
    return "/".join(parts)


def are_one_name(names: Collection[str]) -> bool:
    """Whether the longest ends with each of them, folder by folder: `x.jpg`, `images/x.jpg`."""
    if len(names) == 1:
        return True
    paths = [name.replace("\\", "/").split("/") for name in names]
    parts = [[part for part in path if part not in ("", ".")] for path in paths]
    longest = max(parts, key=len)
    return all(longest[len(longest) - len(part) :] == part for part in parts)


class Names:
    """Finds a source's picture by the name in a table: the same one, or the only one whose path
    ends with it, or with which it ends (`images/x.jpg` and `x.jpg`)."""

    def __init__(self, names: Iterable[str]):
        self._all = frozenset(names)
        self._by_base: dict[str, list[str]] = {}
        for name in self._all:
            self._by_base.setdefault(name.rpartition("/")[2], []).append(name)

    def __contains__(self, name: str) -> bool:
        return name in self._all

    def find(self, name: str) -> str:
        if name in self._all:
            return name
        found = self._by_base.get(name.rpartition("/")[2], [])
        fitting = [f for f in found if f.endswith("/" + name) or name.endswith("/" + f)]
        if len(fitting) > 1:
            raise PictureError("picture_name_ambiguous")
        if not fitting:
            raise PictureError("picture_missing")
        return fitting[0]


def folder_digest(root: pathlib.Path, without: pathlib.Path) -> str:
    """SHA-256 over the names and sizes of a folder's files, to notice when pictures have changed.

    without: a folder whose files do not count, nor do hidden ones, which file browsers leave.
    """
    found = []
    for folder, below, files in os.walk(root.resolve()):
        here = pathlib.Path(folder)
        below[:] = [name for name in below if name[0] != "." and here / name != without.resolve()]
        paths = [here / name for name in files if name[0] != "."]
        found += [(str(path.relative_to(root.resolve())), _size(path)) for path in paths]
    return hashlib.sha256(repr(sorted(found)).encode(errors="surrogateescape")).hexdigest()


def _size(path: pathlib.Path) -> int:
    """Bytes; -1 for a link that leads nowhere."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _is_file(path: pathlib.Path) -> bool:
    """Whether there is one, and neither its folder is closed nor its name too long to be asked."""
    try:
        return path.is_file()
    except OSError:
        return False


def path_below(root: pathlib.Path, name: str) -> pathlib.Path:
    """Where a file of a resolved folder really lies; PictureError where that is not in it."""
    path = pathlib.Path(os.path.realpath(root / name))  # `resolve` raises on loops
    if not path.is_relative_to(root):
        raise PictureError("picture_outside_folder")
    if not path.is_file():
        raise PictureError("picture_missing")
    return path


def read_below(root: pathlib.Path, name: str) -> bytes:
    """The bytes of a picture in a resolved folder; PictureError, also where it leads out of it."""
    path = path_below(root, name)
    if path.stat().st_size > MAX_BYTES:
        raise PictureError("picture_too_large")
    try:
        return path.read_bytes()
    except OSError as error:
        raise PictureError("picture_unreadable") from error


class FolderImages:
    """Files of a folder and those below it; links that lead out of it are not followed."""

    def __init__(self, root: pathlib.Path):
        self._root = root.resolve()
        self._above = tuple({f"{root.absolute()}/", f"{self._root}/"})
        self.names = [
            f"{folder}/{file}"[len(str(self._root)) + 1 :].replace(os.sep, "/")
            for folder, _, files in os.walk(self._root)
            for file in files
        ]
        self._names = Names(self.names)

    def locate(self, name: str) -> str:
        """The path below the folder that a table's name stands for, an absolute one where it lies
        in the folder; PictureError."""
        for above in self._above:
            name = name.removeprefix(above)
        name = safe_name(name)
        if name not in self._names and _is_file(self._root / name):
            path_below(self._root, name)  # behind a link to a folder, which `walk` did not follow
            return name
        return self._names.find(name)

    def path(self, located: str) -> pathlib.Path:
        """Where a located file really lies; PictureError."""
        return path_below(self._root, located)

    def read(self, located: str) -> bytes:
        """The bytes of a located picture; PictureError."""
        return read_below(self._root, located)

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True)
class _Span:
    """Where a tar member's bytes lie."""

    offset: int
    size: int


class TarImages:
    """Pictures of an uncompressed tar, read in any order by any thread."""

    def __init__(self, path: pathlib.Path):
        try:
            self._file = TarFile(path)
            with open_tar(self._file) as tar:
                # a later member of the same name replaces the earlier one, as unpacking would
                self._spans = {
                    member.name.removeprefix("./"): _Span(member.offset_data, member.size)
                    for member in tar_members(tar)
                    if member.isreg()
                }
        except tarfile.TarError as error:
            raise UserError(
                f"--images={path} is no whole uncompressed tar ({error}): give a folder or a tar, "
                "decompressed (`gunzip FILE.tar.gz`) so that it can be read in any order"
            ) from error
        self._names = Names(self._spans)

    def locate(self, name: str) -> str:
        """The member that a table's name stands for; PictureError."""
        return self._names.find(safe_name(name))

    def read(self, located: str) -> bytes:
        """The bytes of a located picture; PictureError."""
        span = self._spans[located]
        if span.size > MAX_BYTES:
            raise PictureError("picture_too_large")
        try:
            return self._file.pread(span.size, span.offset)
        except OSError as error:
            raise PictureError("picture_unreadable") from error

    def close(self) -> None:
        """Gives the file handle back."""
        self._file.close()


class Images:
    """A folder or a tar of pictures, as a context manager."""

    in_two_splits = "picture_in_two_splits"  # the reason
    ambiguous = "picture_name_ambiguous"

    def __init__(self, path: pathlib.Path):
        if not path.exists():
            raise UserError(f"--images={path} does not exist: give a folder or a tar of pictures")
        try:
            self._source = FolderImages(path) if path.is_dir() else TarImages(path)
        except OSError as error:
            raise UserError(f"--images={path} cannot be read: {error.strerror}") from error

    def locate(self, name: str) -> str:
        """The picture that a table's name stands for; PictureError."""
        return self._source.locate(name)

    def read(self, located: str) -> bytes:
        """The bytes of a located picture; PictureError."""
        return self._source.read(located)

    def __enter__(self) -> "Images":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._source.close()
