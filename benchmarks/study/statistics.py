# SPDX-License-Identifier: Apache-2.0
"""Means over seeds, and the t-interval of paired differences."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) over seeds; NaN deviation for one seed."""

    mean: float
    deviation: float
    seeds: int

    def __str__(self) -> str:
        known = "" if math.isnan(self.deviation) else f" ± {self.deviation:.1f}"
        return f"{self.mean:.1f}{known}"


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean of the differences at equal seeds, with a 95 % t-interval; infinite for one seed."""

    mean: float
    low: float
    high: float
    each: tuple[float, ...]

    @property
    def interval(self) -> str:
        """In words."""
        return "one seed" if math.isinf(self.low) else f"{self.low:+.1f} to {self.high:+.1f}"

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(float(np.mean(values)), deviation, len(values))


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """`first - second`, seed by seed."""
    each = np.subtract(first, second, dtype=np.float64)
    mean, many = float(np.mean(each)), len(each)
    if many < 2:
        return Difference(mean, -math.inf, math.inf, tuple(each.tolist()))
    error = float(np.std(each, ddof=1)) / math.sqrt(many)
    half = float(scipy.stats.t.ppf(0.975, many - 1)) * error
    return Difference(mean, mean - half, mean + half, tuple(each.tolist()))
