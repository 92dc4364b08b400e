# SPDX-License-Identifier: Apache-2.0
"""The endless shuffled order of training: a function of (seed, position) without any state."""

import numpy as np
from jaxtyping import Int64

from cots_jax.errors import UserError

ROUNDS = 6  # of each half; own choice, twice what the tests need to see no structure
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def shuffled(positions: Int64[np.ndarray, "b"], seed: int, size: int) -> Int64[np.ndarray, "b"]:
    """What stands at these positions of an endless order over 0..size-1.

    Each run of `size` positions, an epoch, is a permutation of its own. A Feistel network whose
    halves add modulo a and b, with a*b just above `size`; what falls beyond is sent through
    again (own choice: no table, so that an epoch of billions costs nothing, and whole batches at
    once, where grain's shuffle takes 20 µs a row).
    """
    if seed < 0 or size < 1:
        raise UserError(f"cannot shuffle {size} rows with seed {seed}: need 1 row and seed >= 0")
    epoch, index = np.divmod(positions, size)
    keys = _mix(_mix(np.full(epoch.shape, seed, np.uint64)) + epoch.astype(np.uint64))
    index = _permute(index.astype(np.uint64), keys, size)
    while (beyond := np.flatnonzero(index >= size)).size:
        index[beyond] = _permute(index[beyond], keys[beyond], size)
    return index.astype(np.int64)


def _permute(index: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    """A permutation of 0..a*b-1, where a*b >= size."""
    a = np.uint64(int(np.ceil(np.sqrt(size))))
    b = np.uint64(-(-size // int(a)))
    left, right = index // b, index % b
    for _ in range(ROUNDS):
        keys = keys + GOLDEN
        left = (left + _mix(right ^ keys)) % a
        right = (right + _mix(left + keys)) % b
    return left * b + right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every input bit moves every output bit."""
    x = (x + GOLDEN).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
