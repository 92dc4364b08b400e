# SPDX-License-Identifier: Apache-2.0
"""The classes that pictures are sorted into and the prompts that their words are put in."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from cots_jax.data.prepare.captions import clean_caption
from cots_jax.errors import UserError

PLACE = "{}"
NAMED = 5  # labels in an error


@dataclass(frozen=True)
class Classes:
    """labels: as in the captions. words: of each class, one or several, for the prompts."""

    labels: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    sha256: str  # of the file


@dataclass(frozen=True)
class Prompts:
    """Sentences with `{}` where the words of a class stand."""

    templates: tuple[str, ...] = (PLACE,)
    sha256: str = hashlib.sha256(PLACE.encode()).hexdigest()

    def of(self, words: Sequence[str]) -> list[str]:
        """Every template with each of the words."""
        return [template.replace(PLACE, word) for template in self.templates for word in words]


def read_classes(path: Path) -> Classes:
    """One class a line: its label, or `label<TAB>words`, several words parted by commas.

    The label is what the captions say; without words it is also what is put into the prompts. Lines
    of white space are passed over. Raises UserError for files that are missing, empty or no UTF-8,
    for a label twice and for a single class.
    """
    text = _read(path, "--classes")
    labels: dict[str, tuple[str, ...]] = {}
    for number, line in _lines(text):
        label, tab, said = line.partition("\t")
        label = clean_caption(label)
        words = [clean_caption(word) for word in said.split(",")] if tab else [label]
        if not label or "\t" in said or not all(words):
            raise UserError(
                f"--classes={path} line {number} is {line!r}: write a label, or a label, one tab "
                "and its words with commas between them"
            )
        if label in labels:
            raise UserError(f"--classes={path} has {label!r} twice, again in line {number}")
        labels[label] = tuple(words)
    if len(labels) < 2:
        raise UserError(
            f"--classes={path} has {len(labels)} classes: write two or more, one a line"
        )
    return Classes(tuple(labels), tuple(labels.values()), _digest(path))


def read_prompts(path: Path) -> Prompts:
    """One template a line. Raises UserError for files that are missing, empty or no UTF-8, and for
    templates that are there twice or have no `{}`."""
    templates: list[str] = []
    for number, line in _lines(_read(path, "--prompts")):
        template = clean_caption(line)
        if PLACE not in template:
            raise UserError(
                f"--prompts={path} line {number} is {template!r}: put {PLACE} where the "
                "class stands"
            )
        if template in templates:
            raise UserError(f"--prompts={path} has {template!r} twice, again in line {number}")
        templates.append(template)
    if not templates:
        raise UserError(f"--prompts={path} is empty: write one template a line, such as {PLACE}")
    return Prompts(tuple(templates), _digest(path))


def label_numbers(
    said: Sequence[str], labels: Sequence[str], where: str, remedy: str
) -> Int[np.ndarray, "p"]:
    """The class of each picture by what its caption says.

    Raises UserError that names the captions which are no class: a picture is never left out without
    a word, since the number would then be of another set. remedy: how the error ends.
    """
    number = {label: at for at, label in enumerate(labels)}
    unknown = Counter(label for label in said if label not in number)
    if unknown:
        first = ", ".join(f"{label!r} ({times:,})" for label, times in unknown.most_common(NAMED))
        more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
        raise UserError(
            f"{sum(unknown.values()):,} of {len(said):,} pictures of {where} have a first caption "
            f"that is no class: {first}{more}; {remedy}"
        )
    return np.array([number[label] for label in said], np.int64)


def _read(path: Path, flag: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{flag}={path} is not UTF-8 (byte {error.start:,}): save it as UTF-8"
        ) from error


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines with something in them, by their numbers in the file."""
    numbered = enumerate(text.split("\n"), 1)
    return [(number, line.strip("\r\n ")) for number, line in numbered if line.strip()]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
