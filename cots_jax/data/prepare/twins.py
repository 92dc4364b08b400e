# SPDX-License-Identifier: Apache-2.0
"""Pictures that are in a set twice: which group they share, or why the later one is dropped."""

from dataclasses import dataclass
from enum import StrEnum

from cots_jax.data.prepare.looks import Look, Looks


class Duplicates(StrEnum):
    """What becomes of a picture that the set has already."""

    KEEP = "keep"  # equal files share a group, so that they are never each other's negatives
    DROP = "drop"  # so do what has the same pixels and what looks the same


@dataclass(frozen=True)
class Twin:
    """An earlier picture that is the same, and how that was seen."""

    id: str
    split: str
    group_id: int  # -1 where it is in another set
    reason: str  # what a later picture is rejected for
    distance: int = 0  # bits of the look that differ


@dataclass(frozen=True, slots=True)
class _Seen:
    id: str
    split: str
    group_id: int

    def twin(self, reason: str, distance: int = 0) -> Twin:
        return Twin(self.id, self.split, self.group_id, reason, distance)


class Twins:
    """The pictures so far, to be asked in the order of the source.

    Memory is some 300 bytes a picture, and 100 more where looks are compared.
    """

    def __init__(self, duplicates: Duplicates):
        self._duplicates = duplicates
        self._files: dict[int, _Seen] = {}
        self._pixels: dict[int, _Seen] = {}
        self._looks = Looks()
        self._seen: list[_Seen] = []  # by their number in the looks

    def of(self, split: str, file: int, look: Look | None) -> Twin | None:
        """The earlier picture that is the same. `file`: of the bytes' digest; `look`: needed
        where duplicates are dropped."""
        first = self._files.get(file)
        if first is not None:
            other = first.split != split
            reason = "picture_also_in_another_split" if other else "picture_duplicate"
            return first.twin(reason)
        if self._duplicates is Duplicates.KEEP or look is None:
            return None
        same = self._pixels.get(int(look["pixels"]))
        if same is not None:
            return same.twin("picture_duplicate")
        near = self._looks.nearest(look)
        if near is None:
            return None
        number, distance = near
        return self._seen[number].twin("picture_near_duplicate", distance)

    def drops(self, split: str, twin: Twin) -> bool:
        """Whether the later picture, which belongs to `split`, goes."""
        return self._duplicates is Duplicates.DROP or twin.split != split

    def add(self, id: str, split: str, group_id: int, file: int, look: Look | None) -> None:
        """Takes a picture that has no twin for one of the set, the first of its group."""
        seen = _Seen(id, split, group_id)
        self._files[file] = seen
        if self._duplicates is Duplicates.DROP and look is not None:
            self._pixels[int(look["pixels"])] = seen
            self._looks.add(look)
            self._seen.append(seen)
