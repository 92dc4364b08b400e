# SPDX-License-Identifier: Apache-2.0
"""The service of an index, which is brought up to date first where its pictures are named."""

import importlib
import math
import sys
from pathlib import Path

from cots_jax.collection.indexing import index_collection
from cots_jax.errors import UserError, WrongUseError
from cots_jax.retrieval.index_files import Storage, read_facts
from cots_jax.serve.access import Address


def start(index: Path, images: str, model: str, address: Address, alike: float) -> None:
    """Serves until interrupted. images: "", or what `search index` takes. UserError."""
    if math.isnan(alike):
        raise WrongUseError(f"--alike={alike}: take a cosine, or a number above 1 to fold nothing")
    try:
        server = importlib.import_module("cots_jax.serve.server")
    except ImportError as error:
        raise UserError(
            f"the search page needs packages that are not there ({error.name}): "
            "pip install 'cots_jax[search]'"
        ) from error
    if images:
        if not model:
            raise UserError("--images needs the model that embeds them: add --model=WORKDIR")
        done = index_collection(Path(model), images, index, _storage(index))
        print(done.summary(index), file=sys.stderr)
    server.serve(index, model, address, alike)


def _storage(index: Path) -> Storage:
    """As the index has it; float32 for a new one."""
    return read_facts(index).storage if (index / "index.json").exists() else Storage.FLOAT32
