# SPDX-License-Identifier: Apache-2.0
"""How often an address may ask: a token bucket for each."""

import time
from collections import OrderedDict
from collections.abc import Callable

from cots_jax.serve.limits import ADDRESSES, BURST


class Rates:
    """`rate` a second for each address, and `BURST` seconds' worth at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self._rate, self._most, self._clock = rate, rate * BURST, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (tokens, when)

    def wait(self, address: str, cost: float) -> float:
        """Takes what a request costs; the seconds to wait instead where too little is left.

        What costs more than there ever is at once is let in when all of that is left, and is paid
        for by those that come after it.
        """
        now = self._clock()
        left, when = self._left.pop(address, (self._most, now))
        left = min(self._most, left + (now - when) * self._rate)
        needed = min(cost, self._most)
        enough = left >= needed
        self._left[address] = (left - cost if enough else left, now)
        if len(self._left) > ADDRESSES:
            self._left.popitem(last=False)  # the one that has been quiet the longest
        return 0.0 if enough else (needed - left) / self._rate

    def __len__(self) -> int:
        return len(self._left)
