# SPDX-License-Identifier: Apache-2.0
"""Pictures of evaluation splits, which are kept out of what is prepared (`--exclude`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cots_jax.data.prepare.looks import Look, Looks, digest_number, look_of
from cots_jax.data.prepare.threads import in_order
from cots_jax.data.prepare.twins import Twin
from cots_jax.data.records import Record, open_split, read_facts
from cots_jax.errors import UserError


@dataclass(frozen=True)
class _Held:
    name: str  # FOLDER#SPLIT
    id: str


class Leakage:
    """The pictures of the named splits. Safe to ask from many threads once it is made."""

    def __init__(self, exclude: str):
        """`exclude`: FOLDER#SPLIT, several by commas; UserError where one is missing."""
        self._files: dict[int, _Held] = {}
        self._pixels: dict[int, _Held] = {}
        self._looks = Looks()
        self._held: list[_Held] = []
        for folder, split in _named(exclude):
            with open_split(folder, split) as opened:
                name = f"{opened.name}#{split}"
                numbers = range(len(opened))
                for seen in in_order(lambda i: _see(opened.record(i)), numbers):
                    self._add(_Held(name, seen.id), seen)

    def _add(self, held: _Held, seen: "_Seen") -> None:
        self._files.setdefault(seen.file, held)
        self._pixels.setdefault(int(seen.look["pixels"]), held)
        self._looks.add(seen.look)
        self._held.append(held)

    def twin(self, file: int, look: Look | None) -> Twin | None:
        """The excluded picture that a picture is: the same file or pixels, or one that looks
        the same."""
        if look is None:
            return None
        same = self._files.get(file) or self._pixels.get(int(look["pixels"]))
        if same is not None:
            return Twin(same.id, same.name, -1, "picture_excluded")
        near = self._looks.nearest(look)
        if near is None:
            return None
        number, distance = near
        alike = self._held[number]
        return Twin(alike.id, alike.name, -1, "picture_near_excluded", distance)


@dataclass(frozen=True)
class _Seen:
    id: str
    file: int
    look: Look


def _see(record: Record) -> _Seen:
    return _Seen(record.id, digest_number(record.image), look_of(record.image))


def _named(exclude: str) -> Iterator[tuple[str, str]]:
    from cots_jax.data.specs import parse_sources  # JAX: slow, and seldom needed

    sources = parse_sources(exclude, "--exclude")
    if not sources:
        raise UserError("--exclude is empty: write FOLDER#SPLIT, e.g. --exclude=data/coco#test")
    for source in sources:
        yield source.folder, source.split


def exclude_arguments(exclude: str | None) -> dict[str, Any]:
    """What tells one list of excluded splits from another: their contents, not where they lie."""
    if exclude is None:
        return {}
    named = sorted(
        f"{read_facts(folder)['fingerprint']}#{split}" for folder, split in _named(exclude)
    )
    return {"exclude": named}
