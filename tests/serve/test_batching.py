# SPDX-License-Identifier: Apache-2.0
"""Requests come together while the device works, and none waits for another's fault."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from cots_jax.errors import UserError
from cots_jax.serve.batching import Batcher, OverloadedError


class Device:
    """Squares numbers once it may go on; keeps what it was given."""

    def __init__(self) -> None:
        self.go_on, self.batches = threading.Event(), []

    def __call__(self, items: Sequence[int]) -> list[int | UserError]:
        self.batches.append(list(items))
        self.go_on.wait(60)
        if 13 in items:
            raise RuntimeError("broken")
        return [UserError(f"{item} is negative") if item < 0 else item**2 for item in items]


def run(device: Device, items: Sequence[int], most: int = 100, given_up: int | None = None) -> list:
    """The first item alone on the device, the others after it."""

    async def ask_all() -> list:
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(device, pool, 4, most)
            asked = [asyncio.create_task(batcher.ask(item)) for item in items]
            while not device.batches:
                await asyncio.sleep(0.001)
            if given_up is not None:
                asked[given_up].cancel()
                await asyncio.sleep(0)
            device.go_on.set()
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask_all())


def test_what_comes_meanwhile_goes_together() -> None:
    device = Device()
    assert run(device, range(1, 11)) == [n**2 for n in range(1, 11)]
    assert [n for batch in device.batches for n in batch] == list(range(1, 11))
    assert max(map(len, device.batches)) == 4
    assert len(device.batches) <= 4


def test_a_fault_is_its_own() -> None:
    found = run(Device(), [1, -2, 3])
    assert (found[0], found[2]) == (1, 9)
    assert isinstance(found[1], UserError)


def test_a_broken_batch_ends_no_other() -> None:
    found = run(Device(), [1, 2, 3, 4, 13, 5, 6, 7, 8, 9])
    assert any(isinstance(one, RuntimeError) for one in found)
    assert found[-1] == 81


def test_who_gave_up_is_not_worked_for() -> None:
    device = Device()
    found = run(device, range(1, 11), given_up=9)
    assert isinstance(found[9], asyncio.CancelledError)
    assert 10 not in [n for batch in device.batches for n in batch]


def test_too_many_are_refused() -> None:
    found = run(Device(), range(20), most=8)
    refused = [isinstance(one, OverloadedError) for one in found]
    assert 0 < sum(refused) <= 12
    assert not any(refused[:8])


def test_it_starts_again_after_a_pause() -> None:
    device = Device()
    device.go_on.set()

    async def twice() -> list[int]:
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(device, pool, 4, 9)
            return [await batcher.ask(2), await batcher.ask(3)]

    assert asyncio.run(twice()) == [4, 9]
