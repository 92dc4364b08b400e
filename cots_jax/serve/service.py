# SPDX-License-Identifier: Apache-2.0
"""The gallery's threads: one for the device, one for pictures that were sent, some for files."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, UInt8
from starlette.responses import Response

from cots_jax.collection.originals import Originals
from cots_jax.errors import UserError
from cots_jax.serve.batching import Batcher
from cots_jax.serve.finder import BATCHES, Finder, Page, Wanted
from cots_jax.serve.limits import WAITING
from cots_jax.serve.metrics import Metrics
from cots_jax.serve.thumbnails import Size, Thumbnails, decode_sent
from cots_jax.serve.videos import video_answer

READERS = 2  # threads that make small copies and read videos


class Service:
    """What the routes ask. Belongs to one event loop."""

    def __init__(self, finder: Finder, originals: Originals):
        self.gallery = finder.gallery
        self._finder, self._originals = finder, originals
        self._thumbnails = Thumbnails(originals)
        self._device = ThreadPoolExecutor(1, "device")
        self._unpacking = ThreadPoolExecutor(1, "unpacking")  # the largest take 0.8 GB each
        self._reading = ThreadPoolExecutor(READERS, "reading")
        largest = BATCHES[-1]
        self._searches = Batcher(self._find, self._device, largest, WAITING)
        self._pictures = Batcher(self._embed, self._device, largest, WAITING)
        self.metrics = Metrics(
            lambda: len(self.gallery), lambda: self._searches.waiting + self._pictures.waiting
        )

    async def search(self, wanted: Wanted) -> Page:
        """UserError, OverloadedError."""
        return await self._searches.ask(wanted)

    async def vector(self, picture: bytes) -> Float32[np.ndarray, "e"]:
        """Of a file's bytes. PictureError, OverloadedError."""
        loop = asyncio.get_running_loop()
        size = self._finder.size
        decoded = await loop.run_in_executor(self._unpacking, decode_sent, picture, size)
        return await self._pictures.ask(decoded)

    async def thumbnail(self, row: int, size: Size) -> bytes:
        """A JPEG. PictureError."""
        known = self.gallery.rows[row]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, self._thumbnails.jpeg, known, row, size)

    async def video(self, row: int, asked: str, known: str) -> Response:
        """Of the file of which a row is a piece; `Range` and `If-Range`. PictureError."""

        def answer() -> Response:
            path = self._originals.video(self.gallery.rows[row])
            return video_answer(path, asked, known)

        return await asyncio.get_running_loop().run_in_executor(self._reading, answer)

    def close(self) -> None:
        """Ends the threads when they have done what they are at."""
        for pool in (self._device, self._unpacking, self._reading):
            pool.shutdown(wait=True, cancel_futures=True)

    def _find(self, wanted: Sequence[Wanted]) -> list[Page | UserError]:
        self.metrics.batched("search", len(wanted))
        return self._finder.find(wanted)

    def _embed(
        self, pictures: Sequence[UInt8[np.ndarray, "s s 3"]]
    ) -> list[Float32[np.ndarray, "e"]]:
        self.metrics.batched("picture", len(pictures))
        return self._finder.embed(pictures)
