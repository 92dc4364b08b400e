# SPDX-License-Identifier: Apache-2.0
"""Each form written to the disk, and run from there as others would."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from cots_jax.portable.forms import Form
from cots_jax.portable.functions import Signature
from cots_jax.portable.stablehlo import run_stablehlo, write_stablehlo
from cots_jax.weights.exported import read_arrays
from cots_jax.weights.mapping import flat

Inputs = Mapping[str, np.ndarray]
Run = Callable[[str, Inputs], np.ndarray]  # of a function by name


def write_form(folder: Path, form: Form, signatures: Mapping[str, Signature]) -> None:
    """Both functions; of safetensors nothing, as `write_arrays` has written the arrays."""
    if form is Form.STABLEHLO:
        write_stablehlo(folder, signatures)
    elif form is Form.ONNX:
        from cots_jax.portable.onnx_files import write_onnx  # its packages are an extra

        write_onnx(folder, signatures)


def runner(folder: Path, form: Form, signatures: Mapping[str, Signature]) -> Run:
    """The functions as they lie in the folder; of the signatures only names and code are used."""
    if form is Form.ONNX:
        from cots_jax.portable.onnx_files import run_onnx

        return functools.partial(run_onnx, folder)
    arrays = flat(read_arrays(folder))

    def run(name: str, inputs: Inputs) -> np.ndarray:
        weights = {path: arrays[path] for path in signatures[name].weights}
        if form is Form.STABLEHLO:
            return run_stablehlo(folder, name, weights, *inputs.values())
        return np.asarray(jax.jit(signatures[name].function)(weights, *inputs.values()))

    return run
