# SPDX-License-Identifier: Apache-2.0
"""A service on a port of this machine, in a thread of this process."""

import contextlib
import pathlib
import socket
import threading
import time
from collections.abc import Generator

import uvicorn
from small_service import UNLIMITED, small_app

from cots_jax.serve.access import Access
from cots_jax.serve.server import settings


@contextlib.contextmanager
def running(out: pathlib.Path, access: Access = UNLIMITED) -> Generator[str]:
    """Its address, http://127.0.0.1:PORT."""
    with small_app(out, access) as app, socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(settings(app))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
