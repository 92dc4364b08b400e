# SPDX-License-Identifier: Apache-2.0
"""Connections that do not send a request in time are closed."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from cots_jax.serve.limits import HEAD_SECONDS


class ImpatientProtocol(H11Protocol):
    """Whoever is not being answered has so many seconds to send a whole head.

    uvicorn waits for ever, and some hundreds of such connections would leave no place for others.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # uvloop's are of no class of asyncio
        """A connection has opened."""
        super().connection_made(transport)
        self._wait_or_not()

    def data_received(self, data: bytes) -> None:
        """Bytes have come; some of a head do not buy more time."""
        super().data_received(data)
        self._wait_or_not()

    def on_response_complete(self) -> None:
        """An answer has gone out, and the next request may have begun."""
        super().on_response_complete()
        self._wait_or_not()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_or_not(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _close(self) -> None:
        self.transport.close()  # what is written goes out first, if it is taken in time
        self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
