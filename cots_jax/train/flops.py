# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a program, counted in its jaxpr.

Only products and convolutions count, at two operations a multiply-add (the usual convention: all
else is a per cent or two at these widths). XLA's own count knows neither how often a scan runs nor
what custom calls do, so it is not used. Of the branches of a `cond` the dearest counts, and of a
kernel what stands beside it for platforms that lack it.
"""

import math
from typing import Any

import jax


def count_flops(function: Any, *arguments: Any) -> int:
    """Operations of one call. Arguments may be shapes: nothing is computed."""
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "pallas_call":
        return 0  # beside each kernel stands what other platforms run in its place
    inner = [_of(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    if name == "shard_map":  # what one device does
        return sum(inner) * _shards(params)
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "while" and sum(inner):
        raise ValueError("a while loop has no length that could be counted: use scan")
    return sum(inner)


def _inner(params: Any) -> list[Any]:
    """All jaxprs among an equation's parameters."""
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                found.append(item.jaxpr)
            elif hasattr(item, "eqns"):
                found.append(item)
    return found


def _shards(params: Any) -> int:
    """Devices over which a mapped function's results are cut."""
    named = {axis for spec in params["out_specs"] for part in spec for axis in _names(part)}
    return math.prod(params["mesh"].shape[axis] for axis in named)


def _names(part: Any) -> tuple[str, ...]:
    return part if isinstance(part, tuple) else (part,) if part else ()


def _product(equation: Any) -> int:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    inner = math.prod(left[axis] for axis in contracted)
    return 2 * inner * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> int:
    """2 * outputs * (inputs of one output): a kernel's size without its output features."""
    kernel = equation.invars[1].aval.shape
    numbers = equation.params["dimension_numbers"]
    features = kernel[numbers.rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
