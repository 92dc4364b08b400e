# SPDX-License-Identifier: Apache-2.0
"""A small typed grammar for what is looked at: `caption has "dog" and not path starts "old/"`.

    condition = all {"or" all}
    all       = test {"and" test}
    test      = "not" test | "(" condition ")" | column operator value
    column    = "path" | "caption" | "source"      text
              | "start" | "end"                    seconds of a video
    operator  = "=" | "!=" | "has" | "starts" | "ends"          for text
              | "=" | "!=" | "<" | "<=" | ">" | ">="            for seconds
    value     = text in single or double quotation marks | digits ["." digits]

`has` ignores case. A row with several captions passes where one of them does; a row without the
column passes `!=` alone. Own choice, all of it.
"""

import dataclasses
import operator
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from cots_jax.errors import UserError

Columns = Callable[[str], pa.Array]  # by the name that the grammar has for it
TEXT, SECONDS = ("path", "caption", "source"), ("start", "end")
DEEPEST = 50  # parentheses and "not" within each other
_MARKS = re.compile(r"""\s*(?:("[^"]*"|'[^']*')|(\d+(?:\.\d+)?)|(!=|<=|>=|[=<>()])|(\w+)|(\S+))""")
_TEXT_TESTS = {  # Arrow's functions
    "=": "equal",
    "has": "match_substring",
    "starts": "starts_with",
    "ends": "ends_with",
}
_SECONDS_TESTS = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclasses.dataclass(frozen=True)
class Test:
    """One column against one value."""

    column: str
    operator: str
    value: str | float

    __test__ = False  # pytest

    def mask(self, columns: Columns) -> Bool[np.ndarray, "n"]:
        """True for each row that passes."""
        column = columns(self.column)
        if self.operator == "!=":
            return ~Test(self.column, "=", self.value).mask(columns)
        if self.column in SECONDS:
            return _SECONDS_TESTS[self.operator](column.to_numpy(zero_copy_only=False), self.value)
        if not isinstance(column, pa.ListArray):
            return self._passes(column)
        rows = column.value_parent_indices().to_numpy()
        found = np.zeros(len(column), bool)
        found[rows[self._passes(column.flatten())]] = True
        return found

    def _passes(self, texts: pa.Array) -> Bool[np.ndarray, "n"]:
        if self.operator == "=":
            found = pc.call_function("equal", [texts, pa.scalar(self.value, pa.string())])
        else:
            pattern = pc.MatchSubstringOptions(self.value, ignore_case=self.operator == "has")
            found = pc.call_function(_TEXT_TESTS[self.operator], [texts], pattern)
        return found.fill_null(False).to_numpy(zero_copy_only=False)


@dataclasses.dataclass(frozen=True)
class Not:
    """The rows that fail a condition."""

    part: "Condition"

    def mask(self, columns: Columns) -> Bool[np.ndarray, "n"]:
        """True for each row that passes."""
        return ~self.part.mask(columns)


@dataclasses.dataclass(frozen=True)
class Both:
    """The rows that pass all of several conditions."""

    parts: Sequence["Condition"]

    def mask(self, columns: Columns) -> Bool[np.ndarray, "n"]:
        """True for each row that passes."""
        return np.logical_and.reduce([part.mask(columns) for part in self.parts])


@dataclasses.dataclass(frozen=True)
class Either:
    """The rows that pass one of several conditions."""

    parts: Sequence["Condition"]

    def mask(self, columns: Columns) -> Bool[np.ndarray, "n"]:
        """True for each row that passes."""
        return np.logical_or.reduce([part.mask(columns) for part in self.parts])


Condition = Test | Not | Both | Either


def parse_condition(text: str) -> Condition:
    """Reads a condition; UserError says where it stops making sense, and what could stand there."""
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the marks of a text."""

    def __init__(self, text: str):
        self._text = text
        self._marks = list(_MARKS.finditer(text))
        self._at = 0

    def whole(self) -> Condition:
        found = self._either(0)
        if self._at < len(self._marks):
            raise self._wrong("`and`, `or` or the end")
        return found

    def _either(self, depth: int) -> Condition:
        if depth > DEEPEST:
            raise UserError(f"--where is more than {DEEPEST} levels deep: write it flatter")
        parts = [self._both(depth)]
        while self._take("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else Either(parts)

    def _both(self, depth: int) -> Condition:
        parts = [self._test(depth)]
        while self._take("and"):
            parts.append(self._test(depth))
        return parts[0] if len(parts) == 1 else Both(parts)

    def _test(self, depth: int) -> Condition:
        if depth > DEEPEST:
            raise UserError(f"--where is more than {DEEPEST} levels deep: write it flatter")
        if self._take("not"):
            return Not(self._test(depth + 1))
        if self._take("("):
            inner = self._either(depth + 1)
            if not self._take(")"):
                raise self._wrong("`)`, `and` or `or`")
            return inner
        column = next((name for name in (*TEXT, *SECONDS) if self._take(name)), None)
        if column is None:
            raise self._wrong(f"{', '.join((*TEXT, *SECONDS))}, `not` or `(`")
        known = (*(_SECONDS_TESTS if column in SECONDS else _TEXT_TESTS), "!=")
        operator = next((name for name in known if self._take(name)), None)
        if operator is None:
            raise self._wrong(f"one of {' '.join(sorted(known))} after {column}")
        return Test(column, operator, self._value(column))

    def _value(self, column: str) -> str | float:
        group, kind = (2, "a number") if column in SECONDS else (1, "text in quotation marks")
        found = self._next().group(group) if self._at < len(self._marks) else None
        if found is None:
            raise self._wrong(kind)
        self._at += 1
        return float(found) if column in SECONDS else found[1:-1]

    def _next(self) -> re.Match[str]:
        return self._marks[self._at]

    def _take(self, word: str) -> bool:
        """Whether the next mark is this one, which is then behind us."""
        here = self._at < len(self._marks) and word in self._next().group(3, 4)
        self._at += here
        return here

    def _wrong(self, wanted: str) -> UserError:
        start = self._next().start() if self._at < len(self._marks) else len(self._text)
        rest = self._text[start:].strip()
        place = f"before {rest[:40]!r}" if rest else "at its end"
        return UserError(
            f"--where={self._text[:200]!r} lacks {wanted} {place}: write conditions such as "
            'caption has "dog" and not path starts "old/"'
        )
