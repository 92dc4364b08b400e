# SPDX-License-Identifier: Apache-2.0
"""Files of weights that are not what they seem; headers lie about `a.weight`, `b` or `c`."""

import json
import os

from safetensors.numpy import save


class Payload:
    """Leaves a trace if anybody loads it."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def lying(tensors, change):
    """A file whose header says something else than its bytes hold."""
    good = save(tensors)
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + good[8 + size :]


def longer(header):
    header["c"]["data_offsets"][1] += 400


def larger(header):
    header["a.weight"]["shape"] = [2**40, 2**40]


def unknown(header):
    header["b"]["dtype"] = "F99"
