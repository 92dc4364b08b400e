# SPDX-License-Identifier: Apache-2.0
"""StableHLO by `jax.export`: any number of rows, on CPU, GPU and TPU; weights are an argument."""

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax import export

from cots_jax.portable.functions import Signature

FOLDER = "stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(folder: Path, signatures: Mapping[str, Signature]) -> None:
    """`stablehlo/NAME.jax_export` for each function: `jax.export.deserialize` reads it.

    Plain XLA operations; the only custom calls are JAX's checks of the inputs' shapes. The weights
    are not in it, so that one copy of them, in model.safetensors, serves this and all else.
    """
    (folder / FOLDER).mkdir()
    for name, signature in signatures.items():
        weights = {p: jax.ShapeDtypeStruct(w.shape, w.dtype) for p, w in signature.weights.items()}
        with _no_paths():
            # By position: jax.export keeps no names of arguments.
            exported = export.export(jax.jit(signature.function), platforms=PLATFORMS)(
                weights, *signature.inputs.values()
            )
            _file(folder, name).write_bytes(exported.serialize())


def run_stablehlo(
    folder: Path, name: str, weights: Mapping[str, np.ndarray], *inputs: np.ndarray
) -> np.ndarray:
    """A function as others run it: read from the disk."""
    exported = export.deserialize(bytearray(_file(folder, name).read_bytes()))
    return np.asarray(exported.call(dict(weights), *inputs))


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.jax_export"


@contextlib.contextmanager
def _no_paths() -> Generator[None]:
    """Operations remember the source files they came from: folders of this machine stay here."""
    key = "jax_hlo_source_file_canonicalization_regex"
    before = jax.config.values[key]
    jax.config.update(key, ".*")
    try:
        yield
    finally:
        jax.config.update(key, before)
