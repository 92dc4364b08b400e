# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph as it grows: values, nodes and the arrays that they share."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cots_jax.errors import UserError

OPSET = 18  # 2022; onnxruntime 1.14 and newer read it
IR_VERSION = 8  # of that time
BATCH = "b"  # the one size that is not known yet

Dim = Any  # int, or the symbolic number of rows
Shape = tuple[Dim, ...]


@dataclasses.dataclass(frozen=True)
class Wire:
    """What a node gives. shape: may have 1 where JAX has repeated the value: ONNX's element-wise
    operators repeat by themselves, so that nothing is copied before something needs it.
    """

    name: str
    shape: Shape


Value = Wire | np.ndarray  # an array is a constant; what depends on constants alone is computed


class Graph:
    """Nodes in their order, and constants, each stored once."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        """inputs: anything with shape and dtype, by name."""
        self.inputs = [
            helper.make_tensor_value_info(name, _kind(x.dtype), _named(x.shape))
            for name, x in inputs.items()
        ]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._rows: str | None = None

    def add(self, operator: str, inputs: Sequence[Value], shape: Shape, **attributes: Any) -> Wire:
        """A node with one output of this shape."""
        name = f"v{len(self._nodes)}"
        names = [self._name(value) for value in inputs]
        self._nodes.append(helper.make_node(operator, names, [name], **attributes))
        return Wire(name, shape)

    def reshape(self, value: Wire, shape: Shape) -> Wire:
        """The same numbers in another shape; one size at most may be symbolic."""
        sizes = np.array([size if _known(size) else -1 for size in shape], np.int64)
        return value if value.shape == shape else self.add("Reshape", [value, sizes], shape)

    def repeat(self, value: Value, shape: Shape) -> Value:
        """The value written out to this shape, of which it has 1 in some places."""
        if tuple(value.shape) == shape:
            return value
        if isinstance(value, np.ndarray) and all(_known(size) for size in shape):
            return np.broadcast_to(value, shape)
        sizes = [np.array([size], np.int64) if _known(size) else self._batch() for size in shape]
        return self.add("Expand", [value, self.add("Concat", sizes, (len(shape),), axis=0)], shape)

    def model(self, output: Value, name: str, kind: np.dtype) -> onnx.ModelProto:
        """The finished graph, checked. Its output is called `name`."""
        self._nodes.append(helper.make_node("Identity", [self._name(output)], [name]))
        outputs = [helper.make_tensor_value_info(name, _kind(kind), _named(output.shape))]
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "cots_jax", self.inputs, outputs, constants)
        model = helper.make_model(
            graph,
            producer_name="cots_jax",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _batch(self) -> Wire:
        """The number of rows, as a tensor of one."""
        if self._rows is None:
            first = Wire(self.inputs[0].name, ())
            self._rows = self.add("Shape", [first], (1,), start=0, end=1).name
        return Wire(self._rows, (1,))

    def _name(self, value: Value) -> str:
        if isinstance(value, Wire):
            return value.name
        array = np.asarray(value, order="C")
        digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        name = f"c{digest.hexdigest()[:16]}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return name


def _known(size: Dim) -> bool:
    return isinstance(size, int | np.integer)


def _named(shape: Shape) -> list[int | str]:
    unknown = {str(size) for size in shape if not _known(size)}
    if not unknown <= {BATCH}:
        raise UserError(f"ONNX has no size {', '.join(sorted(unknown))}: leave onnx out")
    return [int(size) if _known(size) else BATCH for size in shape]


def _kind(kind: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(kind))
