# SPDX-License-Identifier: Apache-2.0
"""The files of a source that is a folder of them, or is one of them."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cots_jax.data.prepare.captions import is_unicode
from cots_jax.data.prepare.images import folder_digest
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.tars import file_unreadable
from cots_jax.errors import UserError


@dataclass(frozen=True)
class SourceFile:
    """A file and its name below the source, in the order of the names."""

    path: pathlib.Path
    name: str

    @property
    def stem(self) -> str:
        """The name without its ending: how the file's samples are called."""
        return self.name.removesuffix(self.path.suffix)


@dataclass(frozen=True)
class Listing:
    """The files with the wanted endings, and a reject for each that is not read."""

    root: pathlib.Path
    files: list[SourceFile]
    rejects: list[BadRow]

    def rejecting_unit(self) -> Iterator[Sample | BadRow]:
        """The unit that lists what is not read."""
        return iter(self.rejects)


def list_files(source: pathlib.Path, endings: Sequence[str], out: pathlib.Path) -> Listing:
    """Looks for files in a folder and those below it, hidden ones and the prepared folder left
    out; UserError where there is none. Of a file its own folder is the root. Without `endings`
    every file is wanted."""
    if not source.exists():
        raise UserError(f"--source={source} does not exist")
    root = source.resolve() if source.is_dir() else source.resolve().parent
    found = Listing(root, [], [])
    files, links = [source.resolve().name], []
    if source.is_dir():
        files, links = _names(root, out.resolve(), found.rejects)
    wanted = [name for name in files if not endings or _ending(name) in endings]
    for name in sorted(wanted + links):
        path = root / name
        if not is_unicode(name):  # it could not stand in a record
            found.rejects.append(BadRow("file_name_not_utf8", repr(name), repr(name)))
        elif not pathlib.Path(os.path.realpath(path)).is_relative_to(root):
            found.rejects.append(BadRow("file_outside_folder", name, name))
        elif not path.is_file():  # as pipes, dead links and links to folders
            found.rejects.append(BadRow("file_not_regular", name, name))
        else:
            found.files.append(SourceFile(path, name))
    if not found.files:
        kinds = f" {' or '.join(endings)}" if endings else ""
        unfit = f" that can be used ({found.rejects[0].reason})" if found.rejects else ""
        raise UserError(
            f"--source={source} has no file{kinds}{unfit}: give the folder that "
            "holds them, or one of them"
        )
    return found


def _ending(name: str) -> str:
    return pathlib.PurePath(name).suffix.lower()


def _names(
    root: pathlib.Path, out: pathlib.Path, rejects: list[BadRow]
) -> tuple[list[str], list[str]]:
    """The files below a folder, and the links to folders, which are not followed; `rejects` gets
    the folders that cannot be read."""

    def unread(error: OSError) -> None:
        name = pathlib.Path(error.filename).relative_to(root).as_posix()
        rejects.append(file_unreadable(name, error))

    found: list[str] = []
    links: list[str] = []
    for folder, below, files in os.walk(root, onerror=unread):
        here = pathlib.Path(folder)
        inside = here.relative_to(root)
        below[:] = [name for name in below if name[0] != "." and here / name != out]
        links += [(inside / name).as_posix() for name in below if (here / name).is_symlink()]
        found += [(inside / name).as_posix() for name in files if name[0] != "."]
    return found, links


def source_arguments(source: pathlib.Path, out: pathlib.Path) -> dict[str, Any]:
    """What tells one source from another; UserError where it is missing."""
    if not source.exists():
        raise UserError(f"--source={source} does not exist")
    return {
        "source": source.resolve().name,
        "source_bytes": source.stat().st_size if source.is_file() else None,
        "source_digest": folder_digest(source, without=out) if source.is_dir() else None,
    }


def with_rejects(listing: Listing, units: Sequence[Unit]) -> list[Unit]:
    """The units of a source after the one of its rejects."""
    return [listing.rejecting_unit, *units]
