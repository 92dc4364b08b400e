# SPDX-License-Identifier: Apache-2.0
"""The smallest config that builds, for tests of what is refused in it."""

import json

from cots_jax.config import build_config

SMALLEST = {
    "name": "x",
    "data": {"train": "a#train", "eval": "a#val"},
    "model": "tiny-16",
    "duration": "10 steps",
    "batch": 16,
}


def merged(tree, **changes):
    """`a__b=1` sets tree["a"]["b"]."""
    out = json.loads(json.dumps(tree))
    for path, value in changes.items():
        *above, last = path.split("__")
        inner = out
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return out


def build(**changes):
    return build_config(merged(SMALLEST, **changes))
