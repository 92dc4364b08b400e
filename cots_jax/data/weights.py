# SPDX-License-Identifier: Apache-2.0
"""How much of a source of training data comes, beside the others (own choice of notation).

`3`: its pairs come three times as often as those of a source of weight 1; so where nothing is said,
all sources are gone through as many times. `25%`: a quarter of all rows, however many pairs it has.
`0` or `0%`: none.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from cots_jax.errors import UserError

NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")


class Measure(StrEnum):
    """What the number of a weight is of."""

    TIMES = "times"  # through the source, against once through another
    PERCENT = "percent"  # of all rows


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight as it is written; `str` and `parse` are each other's inverse."""

    value: float = 1.0
    measure: Measure = Measure.TIMES

    @classmethod
    def parse(cls, text: str) -> "Weight":
        """`3`, `0.5` or `25%`. Raises ValueError where it is neither."""
        number = text.removesuffix("%")
        most = 1e6 if number == text else 100.0
        value = float(number) if NUMBER.fullmatch(number) else math.nan
        if not 0 <= value <= most:
            raise ValueError(f"{text!r} is no number from 0 to {most:,.0f}")
        return cls(value, Measure.TIMES if number == text else Measure.PERCENT)

    def __str__(self) -> str:
        number = repr(self.value).removesuffix(".0")
        return f"{number}%" if self.measure is Measure.PERCENT else number


ONCE = Weight()


def rows_of_block(
    pairs: Sequence[int], weights: Sequence[Weight], block: int, names: Sequence[str]
) -> tuple[int, ...] | None:
    """How many of a block's rows each source has; None where all that come weigh alike.

    Rounded to whole rows. Raises UserError where a source with a weight would have none.
    """
    coming = [weight for weight in weights if weight.value]
    if len(set(coming)) == 1 and coming[0].measure is Measure.TIMES:
        return None
    shares = _shares(pairs[: len(weights)], weights) * block
    rows = np.floor(shares).astype(int)
    for one in np.argsort(rows - shares, kind="stable")[: block - rows.sum()]:
        rows[one] += 1
    for name, weight, share, found in zip(names, weights, shares, rows):
        if weight.value and not found:
            raise UserError(
                f"{name} would have {share / block:.2e} of the rows, less than one in {block:,}: "
                "give it a larger weight, or leave it out"
            )
    return tuple(rows.tolist())


def _shares(pairs: Sequence[int], weights: Sequence[Weight]) -> np.ndarray:
    """The part of all rows that each source has; together 1."""
    percent = np.array([w.value if w.measure is Measure.PERCENT else 0.0 for w in weights])
    times = np.array([w.value if w.measure is Measure.TIMES else 0.0 for w in weights])
    taken, often = percent.sum(), times * np.array(pairs, np.float64)
    said = ", ".join(map(str, weights))
    if not any(weight.value for weight in weights):
        raise UserError(f"config.data.train: all sources have the weight 0 ({said}): raise one")
    if often.sum() and taken >= 100:
        raise UserError(
            f"config.data.train: the weights {said} leave no rows to the sources without a per "
            "cent: make the percentages smaller, or give those a percentage too"
        )
    if not often.sum() and not math.isclose(taken, 100, abs_tol=0.05):
        raise UserError(
            f"config.data.train: the weights {said} add up to {taken:g} %: make them 100 %, or "
            "leave one source without a percentage, which then has the rest"
        )
    rest = often / often.sum() * (100 - taken) if often.sum() else 0.0
    shares = percent + rest
    return shares / shares.sum()
