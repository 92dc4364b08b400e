# SPDX-License-Identifier: Apache-2.0
"""How far a recall would move with other queries: 95 % bootstrap intervals.

Groups are drawn with replacement, each with all of its images and captions: the captions of one
image succeed and fail together, and drawing them one by one would give intervals that are too
narrow (own choice). The candidates stay as they are.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cots_jax.retrieval.metrics import Ranks

DRAWS = 1000
LEVELS = (1, 5, 10)
AT_ONCE = 2**24  # weights held at a time, 128 MiB


@dataclass(frozen=True)
class Interval:
    """Lower and upper end, in percent; of `rsum` in its own unit."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Of R@1, 5 and 10 both ways and of their sum."""

    image_to_text: dict[str, Interval]
    text_to_image: dict[str, Interval]
    rsum: Interval


def bootstrap(
    ranks: Ranks,
    image_group: Int[np.ndarray, "i"],
    text_group: Int[np.ndarray, "x"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Intervals:
    """Percentile intervals over `draws` resamples; the same for the same ranks."""
    groups, place = np.unique(np.concatenate([image_group, text_group]), return_inverse=True)
    image_place, text_place = place[: len(image_group)], place[len(image_group) :]
    image = _counts(ranks.image_to_text, image_place, len(groups))
    text = _counts(ranks.text_to_image, text_place, len(groups))
    recalls = np.empty((draws, 2, len(LEVELS)))
    rng = np.random.default_rng(seed)
    step = max(1, AT_ONCE // len(groups))
    for first in range(0, draws, step):
        count = min(step, draws - first)
        weights = np.stack(
            [
                np.bincount(rng.integers(0, len(groups), len(groups)), minlength=len(groups))
                for _ in range(count)
            ]
        ).astype(np.float64)
        for side, counts in enumerate((image, text)):
            drawn = weights @ counts
            # A resample without any query of a side has no recall: it counts as none found.
            hits, queries = drawn[:, :-1], np.maximum(drawn[:, -1:], 1)
            recalls[first : first + count, side] = 100 * hits / queries
    return Intervals(
        image_to_text=_named(recalls[:, 0]),
        text_to_image=_named(recalls[:, 1]),
        rsum=_interval(recalls.sum(axis=(1, 2))),
    )


def _counts(
    ranks: Int[np.ndarray, "q"], place: Int[np.ndarray, "q"], groups: int
) -> Float[np.ndarray, "g 4"]:
    """Of each group: queries found within 1, 5 and 10, and queries."""
    found = [np.bincount(place, weights=ranks <= level, minlength=groups) for level in LEVELS]
    return np.stack([*found, np.bincount(place, minlength=groups)], axis=1).astype(np.float64)


def _named(recalls: Float[np.ndarray, "n 3"]) -> dict[str, Interval]:
    return {f"r{level}": _interval(recalls[:, at]) for at, level in enumerate(LEVELS)}


def _interval(values: Float[np.ndarray, "n"]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))
