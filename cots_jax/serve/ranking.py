# SPDX-License-Identifier: Apache-2.0
"""Where scores fall off, and which pictures are alike."""

import numpy as np
from jaxtyping import Bool, Float32, Int

WINDOW = 50  # of the best scores in which the fall is looked for


def fall_off(scores: Float32[np.ndarray, "k"]) -> int:
    """How many of the best stand out: those before the largest drop between neighbours.

    Own choice. Scores of two models, or of two queries, are not on one scale, so that no threshold
    would do. 0 where there is nothing to compare.
    """
    best = scores[:WINDOW]
    if len(best) < 3:
        return 0
    return int(np.argmax(best[:-1] - best[1:])) + 1


def leaders(vectors: Float32[np.ndarray, "k e"], alike: float) -> Int[np.ndarray, "k"]:
    """For each picture, best first, the place of the one it is folded under, often its own.

    It goes under the first that leads and whose cosine with it is at least `alike`. What stands
    first is settled without what follows, so that a longer list begins as a shorter one.
    """
    lead = np.arange(len(vectors))
    # not by BLAS, whose threads wait for each other many times as long as so little work takes
    cosines = np.einsum("ie,je->ij", vectors, vectors)
    earlier: Bool[np.ndarray, "k k"] = np.tril(cosines >= alike, -1)
    for place in np.flatnonzero(earlier.any(axis=1)):
        found = np.flatnonzero(earlier[place])
        leading = found[lead[found] == found]
        if len(leading):
            lead[place] = leading[0]
    return lead
