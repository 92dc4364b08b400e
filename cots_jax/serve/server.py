# SPDX-License-Identifier: Apache-2.0
"""The service on an address of this machine."""

import contextlib
import socket
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import uvicorn
from jaxtyping import Float32, UInt8

from cots_jax.collection.originals import open_originals
from cots_jax.collection.query import open_model
from cots_jax.errors import UserError
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.index import Index
from cots_jax.serve.access import Access, Address
from cots_jax.serve.app import make_app
from cots_jax.serve.connection import ImpatientProtocol
from cots_jax.serve.finder import Embedder, Finder
from cots_jax.serve.gallery import Gallery
from cots_jax.serve.guard import Guard
from cots_jax.serve.limits import CONNECTIONS, HEAD_SECONDS
from cots_jax.serve.service import Service

END_SECONDS = 5  # for answers under way, when the service ends


def serve(folder: Path, model: str, address: Address, alike: float) -> None:
    """Serves an index until it is interrupted. UserError."""
    access = address.access()
    with _listening(address) as listening:
        gallery = Gallery(Index.open(folder))
        if not len(gallery):
            raise UserError(f"{folder} holds no picture: index some first")
        opened = open_model(folder, model)
        finder = Finder(_embedder(opened), gallery)
        with open_originals(gallery.index.facts.images) as originals:
            finder.warm_up()
            app = make_app(Service(finder, originals), access, alike)
            url = _url(listening, address, access)
            ready = f"{len(gallery):,} pictures on {url} (Ctrl-C ends it)"
            with contextlib.suppress(KeyboardInterrupt):
                _Server(settings(app), ready).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Says where it is once it answers there and takes signals, no sooner."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, then the word."""
        await super().startup(sockets)
        if not self.should_exit:
            print(self._ready, file=sys.stderr)


def _embedder(opened: Pretrained) -> Embedder:
    def pictures(
        images: Sequence[UInt8[np.ndarray, "s s 3"]], batch: int
    ) -> Float32[np.ndarray, "n e"]:
        return opened.encode_decoded((image[None] for image in images), batch)

    return Embedder(opened.encode_texts, pictures, opened.preprocessing.size, opened.knows)


def settings(app: Guard) -> uvicorn.Config:
    """How uvicorn runs the application: nothing of a query is logged, and no header of a client
    says where it comes from."""
    return uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=int(HEAD_SECONDS),
        timeout_graceful_shutdown=END_SECONDS,
    )


@contextlib.contextmanager
def _listening(address: Address) -> Generator[socket.socket]:
    """Taken before the model is loaded, so that a port in use is known at once."""
    host, port = address.host, address.port
    try:
        if not 0 <= port < 2**16:  # getaddrinfo would take what is left of it
            raise OverflowError("ports end at 65535")
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(place[:2], family=family, backlog=CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {host}, port {port} ({error}): choose another --host or --port"
        ) from error
    with listening:
        yield listening


def _url(listening: socket.socket, address: Address, access: Access) -> str:
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # every address of this machine
        host = access.names[0]
    shown = f"[{host}]" if ":" in host else host
    # what came from a file is known to whoever wrote it, and stays out of logs
    query = "" if address.token_file or not access.token else f"?token={access.token}"
    return f"http://{shown}:{port}/{query}"
