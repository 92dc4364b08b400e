# SPDX-License-Identifier: Apache-2.0
"""ONNX files of both towers, weights included, for onnxruntime and whatever else reads them."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime

from cots_jax.portable.functions import Signature
from cots_jax.portable.onnx_graph import Graph, Value, Wire
from cots_jax.portable.onnx_operators import convert

FOLDER = "onnx"
OUTPUT = "embedding"


def write_onnx(folder: Path, signatures: Mapping[str, Signature]) -> None:
    """`onnx/NAME.onnx` for each function, of any number of rows."""
    (folder / FOLDER).mkdir()
    for name, signature in signatures.items():
        onnx.save(onnx_model(signature), _file(folder, name))


def onnx_model(signature: Signature) -> onnx.ModelProto:
    """The function with its weights as constants."""
    closed = jax.make_jaxpr(signature.function)(signature.weights, *signature.inputs.values())
    graph = Graph(signature.inputs)
    # Dictionaries are flattened in the order of their keys.
    weights: list[Value] = [signature.weights[path] for path in sorted(signature.weights)]
    wires = [Wire(name, tuple(x.shape)) for name, x in signature.inputs.items()]
    (output,) = convert(graph, closed, [*weights, *wires])
    return graph.model(output, OUTPUT, np.dtype(np.float32))


def run_onnx(folder: Path, name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """A function as others run it: read from the disk, on the CPU."""
    session = onnxruntime.InferenceSession(_file(folder, name), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], dict(inputs))[0])


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.onnx"
