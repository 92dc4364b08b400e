# SPDX-License-Identifier: Apache-2.0
"""One folder a class, with or without folders of splits above: the layout of most labelled sets.

    cats/1.jpg              train/cats/1.jpg
    dogs/2.jpg              val/dogs/2.jpg

The caption is the name of the class's folder. Pictures of one class are one group: a caption that
several pictures have is no wrong answer to any of them.
"""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cots_jax.data.prepare.captions import gather_captions
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.images import read_below
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.source_files import (
    SourceFile,
    list_files,
    source_arguments,
    with_rejects,
)
from cots_jax.data.prepare.splits import split_folder, train_last
from cots_jax.data.prepare.tars import PICTURES
from cots_jax.data.prepare.write import Prepared
from cots_jax.errors import UserError


@dataclass(frozen=True)
class ClassesOptions(Settings):
    """What `prepare classes` is asked for."""

    source: pathlib.Path  # the folder of the classes' folders, or of the splits' folders


def prepare_classes(out: pathlib.Path, options: ClassesOptions) -> Prepared:
    """Writes the folder of a set that has a folder for each class, underscores read as spaces.

    Where the classes lie in folders called train, val, test and the like, those are the splits;
    else `--held_out` decides. Folders within that of a class belong to it.
    """
    arguments = source_arguments(options.source, out)
    if not options.source.is_dir():
        raise UserError(f"--source={options.source} is no folder: give the one above the classes")
    source = Source("classes", arguments, lambda: _units(out, options), str(options.source))
    return prepare_source(out, source, options)


@contextmanager
def _units(out: pathlib.Path, options: ClassesOptions) -> Iterator[Sequence[Unit]]:
    listing = list_files(options.source, (), out)
    splits = _splits(listing.files)
    classes: dict[tuple[str | None, str], list[SourceFile]] = {}
    for file in listing.files:
        folders = file.name.split("/")[:-1]
        if len(folders) < (2 if splits else 1):
            listing.rejects.append(BadRow("file_in_no_class", file.name, file.name))
            continue
        split = splits[folders[0]] if splits else None
        classes.setdefault((split, folders[1 if splits else 0]), []).append(file)
    if not classes:
        raise UserError(
            f"--source={options.source} has no folder of a class with files in it: give the folder "
            "above the classes' folders, or above those of the splits"
        )
    ordered = sorted(classes, key=lambda found: train_last(found[0]))
    yield with_rejects(
        listing,
        [
            functools.partial(_samples, classes[key], key[1], key[0], listing.root)
            for key in ordered
        ],
    )


def _splits(files: Sequence[SourceFile]) -> dict[str, str]:
    """The split of each folder at the top; nothing where these are the classes.

    A folder of that name with pictures right in it is a class: trains are a class of some sets.
    UserError where some folders are splits and some are not.
    """
    paths = [file.name.split("/") for file in files]
    direct = {parts[0] for parts in paths if len(parts) == 2 and is_picture(parts[1])}
    tops = dict.fromkeys(parts[0] for parts in paths if len(parts) > 1)
    found = {top: None if top in direct else split_folder(top) for top in tops}
    named = {top: split for top, split in found.items() if split is not None}
    silent = [top for top, split in found.items() if split is None]
    if named and silent:
        raise UserError(
            f"{next(iter(named))}/ is a folder of a split with classes in it and {silent[0]}/ is "
            "not: put every class into the folder of a split or none, or prepare them apart"
        )
    return named


def is_picture(name: str) -> bool:
    """By its ending."""
    return pathlib.PurePath(name).suffix.lower().removeprefix(".") in PICTURES


def _samples(
    files: Sequence[SourceFile], name: str, split: str | None, root: pathlib.Path
) -> Iterator[Sample | BadRow]:
    for file in files:
        if not is_picture(file.name):
            yield BadRow("file_no_picture", file.name, file.name)
            continue
        captions = gather_captions(name.replace("_", " "), file.name, file.name)
        yield from captions.rejects
        if captions.cleaned:
            texts = tuple(captions.cleaned), tuple(captions.raw)
            read = functools.partial(read_below, root, file.name)
            yield Sample(file.name, *texts, split, file.name, read, group=captions.cleaned[0])
