# SPDX-License-Identifier: Apache-2.0
"""The lists of one large JSON object, element by element, in the memory of a few elements."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, TextIO

from cots_jax.errors import UserError

CHUNK = 2**20  # characters
MOST = 2**28  # of one value: beyond it the file is something else
DECODER = json.JSONDecoder()
NUMBER = "+-.0123456789Ee"


def list_elements(path: pathlib.Path, key: str) -> Iterator[Any]:
    """The elements of the list that the file's one object has under `key`.

    UserError where the file is no whole JSON object or has no such list.
    """
    found = False
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for name, value in _members(_Text(file)):
                found = found or name == key
                if name == key and value is not _START:
                    yield value
    except OSError as error:
        raise UserError(f"--captions={path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--captions={path} is no whole JSON object ({error}): fetch or unpack it again"
        ) from error
    if not found:
        raise UserError(f'--captions={path} has no list "{key}": is it of this format?')


_START = object()  # of a list, which may have no element


def _members(text: "_Text") -> Iterator[tuple[str, Any]]:
    """(key, _START) and then (key, element) for every member that is a list; others are passed."""
    text.expect("{")
    while text.next() != "}":
        key = text.value()
        text.expect(":")
        if text.next() != "[":
            text.value()
        else:
            yield key, _START
            text.expect("[")
            while text.next() != "]":
                yield key, text.value()
                text.separator("]")
            text.expect("]")
        text.separator("}")
    text.expect("}")


class _Text:
    """A cursor over a file of which only the present value is held."""

    def __init__(self, file: TextIO):
        self._file = file
        self._text = ""
        self._at = 0

    def _more(self) -> bool:
        """Reads on, twice as far each time that a value does not end."""
        more = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._text = self._text[self._at :] + more
        self._at = 0
        return more != ""

    def next(self) -> str:
        """The next character that is no white space, left where it is."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise ValueError("it ends too early")

    def expect(self, character: str) -> None:
        if self.next() != character:
            raise ValueError(f"{self.next()!r} stands where {character!r} should")
        self._at += 1

    def separator(self, end: str) -> None:
        """Passes a comma, unless the list or object ends here."""
        if self.next() != end:
            self.expect(",")
            if self.next() == end:
                raise ValueError(f"a comma stands before {end!r}")

    def value(self) -> Any:
        """The next value; a number counts as whole only where something else follows it."""
        self.next()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if len(self._text) - self._at > MOST or not self._more():
                    raise
                continue
            # `1` before `.5`
            is_number = isinstance(value, int | float)
            if is_number and not self._text[end:].strip(NUMBER) and self._more():
                continue
            self._at = min(end, len(self._text))
            return value
