# SPDX-License-Identifier: Apache-2.0
"""Milvus: the same client speaks to a file (Milvus Lite), a server and a cluster, by its URI."""

import importlib
import logging
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from cots_jax.errors import UserError
from cots_jax.retrieval.engine import NONE, ROW_BITS, part_keys

INSTALL = "pip install 'cots_jax[milvus]'"
CONNECTIVITY, EXPANSION_ADD = 32, 128  # neighbours of a vector, and those looked at to find them
ROWS = 1024  # sent at once: a message may have 64 MiB
KEY, VECTOR = "id", "vector"  # older servers call the key so, whatever its name
TOKEN = "MILVUS_TOKEN"  # in the environment, where a server asks for one


class MilvusEngine:
    """A collection in the Milvus of a URI; `place` is its name, and a new one where that is empty.

    Consistency is "Strong": by default, answers miss what was just written and have what was just
    deleted.
    """

    def __init__(self, uri: str, place: str, width: int):
        package = _package()
        self._error: type[Exception] = package.MilvusException
        # Milvus Lite's server, in this process, shouts about calls that it has not; pymilvus logs
        # what it raises
        for name in ("grpc._server", "pymilvus"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._uri = uri
        self._client = self._asked(
            lambda: package.MilvusClient(uri, token=os.environ.get(TOKEN, ""))
        )
        self.place = place or f"cots_jax_{uuid.uuid4().hex}"
        try:
            if not place:
                self._asked(lambda: self._create(package, width))
            elif not self._asked(lambda: self._client.has_collection(self.place)):
                raise UserError(
                    f"Milvus at {uri} has no collection {place}: name the right one with --uri, or "
                    "remove engine.json from the index and run `search index` with --engine=milvus"
                )
            self._asked(lambda: self._client.load_collection(self.place))
        except BaseException:
            self.close()
            raise

    def put(self, part: int, vectors: Float[np.ndarray, "n e"]) -> None:
        """Takes the vectors of a part."""
        keys = part_keys(part, len(vectors)).tolist()
        for start in range(0, len(vectors), ROWS):
            chunk = vectors[start : start + ROWS].astype(np.float32)
            named = zip(keys[start : start + ROWS], chunk, strict=True)
            rows = [{KEY: key, VECTOR: vector} for key, vector in named]
            self._asked(lambda rows=rows: self._client.upsert(self.place, rows))

    def drop(self, part: int) -> None:
        """Forgets those of a part, where it has any."""
        first, end = part << ROW_BITS, (part + 1) << ROW_BITS
        condition = f"{KEY} >= {first} and {KEY} < {end}"
        self._asked(lambda: self._client.delete(self.place, filter=condition))

    def search(
        self, queries: Float32[np.ndarray, "q e"], k: int, effort: int
    ) -> Int64[np.ndarray, "q k"]:
        """Keys of the largest dot products, best first; NONE where there are no more."""
        found = self._asked(
            lambda: self._client.search(
                self.place,
                data=queries.tolist(),
                limit=k,
                search_params={"metric_type": "IP", "params": {"ef": max(effort, k)}},
            )
        )
        keys = np.full((len(queries), k), NONE, np.int64)
        for row, hits in enumerate(found):
            keys[row, : len(hits)] = [hit[KEY] for hit in hits]
        return keys

    def save(self) -> None:
        """Waits until Milvus has all of it on its disks."""
        self._asked(lambda: self._client.flush(self.place))

    def close(self) -> None:
        """Ends the connection, and of Milvus Lite the server."""
        self._client.close()

    def _create(self, package: Any, width: int) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(KEY, package.DataType.INT64, is_primary=True)
        schema.add_field(VECTOR, package.DataType.FLOAT_VECTOR, dim=width)
        index = self._client.prepare_index_params()
        built = {"M": CONNECTIVITY, "efConstruction": EXPANSION_ADD}
        index.add_index(VECTOR, index_type="HNSW", metric_type="IP", params=built)
        self._client.create_collection(
            self.place, schema=schema, index_params=index, consistency_level="Strong"
        )

    def _asked(self, call: Any) -> Any:
        try:
            return call()
        except self._error as error:
            raise UserError(f"Milvus at {self._uri} says: {error}") from error


def default_uri(folder: Path) -> str:
    """The file of Milvus Lite within an index."""
    return str(folder / "milvus.db")


def _package() -> Any:
    try:
        return importlib.import_module("pymilvus")
    except ImportError as error:
        raise UserError(f"--engine=milvus needs the package pymilvus: run `{INSTALL}`") from error
