# SPDX-License-Identifier: Apache-2.0
"""JAX's primitives as ONNX operators: those that the towers are made of.

Our own, since the packages that do it pin older versions of what training needs, and meet neither
the symbolic batch nor the scan of Flax. What is unknown here is refused by name, and every exported
graph is run against the model it came from.
"""

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from onnx import TensorProto, helper

from cots_jax.errors import UserError
from cots_jax.portable.onnx_graph import Graph, Shape, Value, Wire

SAME = {  # element by element, under another name
    "abs": "Abs", "add": "Add", "and": "And", "div": "Div", "erf": "Erf", "exp": "Exp",
    "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log", "logistic":
    "Sigmoid", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "not": "Not",
    "or": "Or", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
NOTHING = ("copy", "copy_p", "optimization_barrier", "stop_gradient")
REDUCED = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}


def convert(graph: Graph, closed: ClosedJaxpr, values: Sequence[Value]) -> list[Value]:
    """Adds a traced function to the graph, and gives its outputs, written out."""
    found = _run(graph, closed.jaxpr, [np.asarray(c) for c in closed.consts], values)
    return [graph.repeat(v, _shape(atom)) for v, atom in zip(found, closed.jaxpr.outvars)]


def _run(
    graph: Graph, jaxpr: Jaxpr, consts: Sequence[Value], values: Sequence[Value]
) -> list[Value]:
    known: dict[Var, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values]))

    def read(atom: Var | Literal) -> Value:
        return np.asarray(atom.val, _kind(atom)) if isinstance(atom, Literal) else known[atom]

    for equation in _needed(jaxpr):
        outputs = _equation(graph, equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """Without what no output depends on: a tower gives more than its joint feature."""
    wanted, kept = {atom for atom in jaxpr.outvars if isinstance(atom, Var)}, []
    for equation in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(equation.outvars):
            kept.append(equation)
            wanted.update(atom for atom in equation.invars if isinstance(atom, Var))
    return kept[::-1]


def _equation(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(graph, equation, values)
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr") if key in params), None)
    if isinstance(inner, ClosedJaxpr):
        return _run(graph, inner.jaxpr, [np.asarray(c) for c in inner.consts], values)
    (output,) = equation.outvars
    if name == "broadcast_in_dim":
        return [_broadcast(graph, values[0], _shape(output), params["broadcast_dimensions"])]
    if name in NOTHING:
        return [values[0]]
    constants = [value for value in values if isinstance(value, np.ndarray)]
    if len(constants) == len(values):
        return [_computed(equation, constants)]
    if name in SAME:
        return [graph.add(SAME[name], values, _joint(values))]
    if name in ELEMENTS:
        return [ELEMENTS[name](graph, equation, values)]
    if name in OTHERS:
        whole = [graph.repeat(v, _shape(atom)) for v, atom in zip(values, equation.invars)]
        return [OTHERS[name](graph, equation, whole)]
    raise UserError(f"the towers use {name}, which is not known to the ONNX export: leave onnx out")


def _computed(equation: JaxprEqn, values: Sequence[np.ndarray]) -> np.ndarray:
    """What depends on constants alone."""
    whole = [np.broadcast_to(v, _shape(atom)) for v, atom in zip(values, equation.invars)]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(equation.primitive.bind(*whole, **equation.params))


def _scan(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Unrolled: one piece a layer, each with its own slice of the stacked weights."""
    body = equation.params["jaxpr"]
    inner = body.jaxpr
    if any(_shape(one) != _shape(other) for one, other in zip(inner.outvars, equation.outvars)):
        raise UserError("the towers stack outputs of a scan: leave onnx out")
    # By shapes, since JAX 0.12 has other parameters that say it.
    sliced = [_shape(one) != _shape(other) for one, other in zip(inner.invars, equation.invars)]
    last = len(values) - sum(sliced)
    first = last - len(equation.outvars)
    carry, stacked = list(values[first:last]), values[last:]
    consts = [np.asarray(c) for c in body.consts]
    for layer in range(equation.params["length"]):
        pieces = [array[layer] for array in stacked if isinstance(array, np.ndarray)]
        carry = _run(graph, inner, consts, [*values[:first], *carry, *pieces])
    return carry


def _broadcast(graph: Graph, value: Value, shape: Shape, places: Sequence[int]) -> Value:
    """Axes of size 1 are put in; the repeating is left to who needs it."""
    new = [axis for axis in range(len(shape)) if axis not in places]
    if not new:
        return value
    if isinstance(value, np.ndarray):
        return np.expand_dims(value, tuple(new))
    sizes = dict(zip(places, value.shape))
    unsqueezed = tuple(sizes.get(axis, 1) for axis in range(len(shape)))
    return graph.add("Unsqueeze", [value, np.array(new, np.int64)], unsqueezed)


def _cast(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return graph.add("Cast", values, values[0].shape, to=kind)


def _erfc(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    shape = values[0].shape
    return graph.add("Sub", [_one(equation), graph.add("Erf", values, shape)], shape)


def _rsqrt(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    shape = values[0].shape
    return graph.add("Div", [_one(equation), graph.add("Sqrt", values, shape)], shape)


def _square(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    return graph.add("Mul", [values[0], values[0]], values[0].shape)


def _power(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    exponent = np.asarray(equation.params["y"], _kind(equation.invars[0]))
    return graph.add("Pow", [values[0], exponent], values[0].shape)


def _select(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    choice, otherwise, chosen = values
    return graph.add("Where", [choice, chosen, otherwise], _joint(values))


def _one(equation: JaxprEqn) -> np.ndarray:
    return np.ones((), _kind(equation.invars[0]))


def _reduce(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    axes = np.array(equation.params["axes"], np.int64)
    operator = REDUCED[equation.primitive.name]
    return graph.add(operator, [values[0], axes], _out(equation), keepdims=0)


def _reshape(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    return graph.reshape(_wire(values[0]), _out(equation))


def _transpose(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    order = list(equation.params["permutation"])
    return graph.add("Transpose", values, _out(equation), perm=order)


def _concatenate(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    return graph.add("Concat", values, _out(equation), axis=equation.params["dimension"])


def _slice(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    params, (value,) = equation.params, values
    steps = params["strides"] or (1,) * len(value.shape)
    kept = zip(params["start_indices"], params["limit_indices"], steps, value.shape)
    cut = {a: c[:3] for a, c in enumerate(kept) if c[:3] != (0, c[3], 1)}
    if not cut:
        return value
    ends = [np.array(part, np.int64) for part in zip(*cut.values())]
    starts, stops, strides = ends
    inputs = [value, starts, stops, np.array(list(cut), np.int64), strides]
    return graph.add("Slice", inputs, _out(equation))


def _dot(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    """A MatMul where the right side is a matrix of weights, else an Einsum."""
    (inner, outer), (batch, other) = equation.params["dimension_numbers"]
    left, right = values
    last = tuple(range(len(left.shape) - len(inner), len(left.shape)))
    if isinstance(right, np.ndarray) and not batch and tuple(inner) == last:
        order = [*outer, *(axis for axis in range(right.ndim) if axis not in outer)]
        size = math.prod(right.shape[axis] for axis in outer)
        matrix = right.transpose(order).reshape(size, -1)
        flat = graph.reshape(_wire(left), (*left.shape[: last[0]], size))
        result = graph.add("MatMul", [flat, matrix], (*flat.shape[:-1], matrix.shape[1]))
        return graph.reshape(result, _out(equation))
    names = iter(string.ascii_lowercase)
    of_left, of_right = ["" for _ in left.shape], ["" for _ in right.shape]
    for mine, theirs in (*zip(batch, other), *zip(inner, outer)):
        of_left[mine] = of_right[theirs] = next(names)
    free = [[i for i, name in enumerate(side) if not name] for side in (of_left, of_right)]
    for side, axes in zip((of_left, of_right), free):
        for axis in axes:
            side[axis] = next(names)
    result = [of_left[axis] for axis in batch]
    result += [side[axis] for side, axes in zip((of_left, of_right), free) for axis in axes]
    written = f"{''.join(of_left)},{''.join(of_right)}->{''.join(result)}"
    return graph.add("Einsum", values, _out(equation), equation=written)


def _gather(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    """Along one axis: a piece at a fixed place, `x[:, 2:]`; slices by ids, `table[ids]`; and of
    each row a slice of its own, `take_along_axis`.
    """
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    value, index = values
    each, axes = numbers.operand_batching_dims, numbers.start_index_map
    others = [a for a in range(len(value.shape)) if a not in (*axes, *each)]
    whole = all(value.shape[a] == sizes[a] for a in others)
    collapsed = set(numbers.collapsed_slice_dims) == set(axes)
    along_one = len(axes) == 1 and whole and not each
    if along_one and isinstance(index, np.ndarray) and index.ndim == 1:
        first = np.array(index, np.int64)
        ends = [first, first + sizes[axes[0]], np.array(axes, np.int64)]
        piece = graph.add("Slice", [value, *ends], tuple(sizes))
        if not collapsed:
            return piece
        return graph.add("Squeeze", [piece, np.array(axes, np.int64)], _out(equation))
    rows = len(index.shape) - 1
    if (
        along_one
        and collapsed
        and set(numbers.offset_dims).isdisjoint(range(axes[0], axes[0] + rows))
    ):
        ids = graph.add("Squeeze", [index, np.array([rows], np.int64)], index.shape[:-1])
        return graph.add("Gather", [value, ids], _out(equation), axis=axes[0])
    if axes == (1,) and each == (0,) and whole and numbers.start_indices_batching_dims == (0,):
        wide = graph.add("Cast", [index], index.shape, to=TensorProto.INT64)
        return graph.add("GatherND", [value, wide], _out(equation), batch_dims=1)
    raise UserError("the towers gather in a way unknown to the ONNX export: leave onnx out")


def _squeeze(graph: Graph, equation: JaxprEqn, values: Sequence[Value]) -> Value:
    axes = np.array(equation.params["dimensions"], np.int64)
    return graph.add("Squeeze", [values[0], axes], _out(equation))


def _joint(values: Sequence[Value]) -> Shape:
    """The shape of an element-wise result: sizes of 1 give way, also to the number of rows."""
    rank = max(len(value.shape) for value in values)
    padded = [(1,) * (rank - len(value.shape)) + tuple(value.shape) for value in values]
    return tuple(next((s for s in sizes if s != 1), 1) for sizes in zip(*padded))


def _shape(atom: Any) -> Shape:
    return tuple(atom.aval.shape)


def _out(equation: JaxprEqn) -> Shape:
    return _shape(equation.outvars[0])


def _kind(atom: Any) -> np.dtype:
    return np.dtype(atom.aval.dtype)


def _wire(value: Value) -> Wire:
    assert isinstance(value, Wire), "constants are computed and not added"
    return value


Operator = Callable[[Graph, Any, Sequence[Value]], Value]
ELEMENTS: dict[str, Operator] = {  # may be given values that are not written out
    "convert_element_type": _cast,
    "erfc": _erfc,
    "integer_pow": _power,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "square": _square,
}
OTHERS: dict[str, Operator] = {
    **dict.fromkeys(REDUCED, _reduce),
    "concatenate": _concatenate,
    "dot_general": _dot,
    "gather": _gather,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
