# SPDX-License-Identifier: Apache-2.0
"""JAX's primitives as ONNX operators, each against JAX, with a symbolic number of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import export
from quick import jit

from cots_jax.errors import UserError
from cots_jax.portable.functions import Signature
from cots_jax.portable.onnx_files import onnx_model

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(5, 3)).astype(np.float32)
MATRIX = RNG.normal(size=(4, 2, 3)).astype(np.float32)


def same(function, *inputs: np.ndarray) -> None:
    """A function that treats rows alike is in ONNX what it is in JAX, for one row and for all."""
    (b,) = export.symbolic_shape("b")
    specs = {
        f"x{number}": jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype)
        for number, x in enumerate(inputs)
    }
    model = onnx_model(Signature(lambda weights, *x: function(*x), {}, specs))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = np.asarray(jit(function)(*inputs))
    for count in (1, len(wanted)):
        (got,) = session.run(None, {name: x[:count] for name, x in zip(specs, inputs)})
        np.testing.assert_allclose(got, wanted[:count], rtol=1e-5, atol=1e-6)


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.nn.gelu(x, approximate=False),
        lambda x: jax.nn.gelu(x, approximate=True),
        lambda x: jax.nn.softmax(x * jax.nn.sigmoid(1.702 * x), axis=-1),
        lambda x: jax.lax.rsqrt(x * x + 1) - jnp.sqrt(jnp.square(x)) + x**3,
        lambda x: jnp.where(x > 0.5, -jnp.exp(jnp.minimum(x, 1)), x.astype(jnp.int32) * 1.0),
        lambda x: x[:, 1] + x[:, 2:].sum(axis=1),
        lambda x: jnp.concatenate([jnp.broadcast_to(TABLE[None, 0], (x.shape[0], 3)), x], axis=1),
        lambda x: (x - x.mean(axis=1, keepdims=True)).reshape(-1, 3, 2).transpose(0, 2, 1),
        lambda x: jnp.broadcast_to(x[:, None, :1], (x.shape[0], 3, 1)).reshape(-1, 3),
        lambda x: jnp.ones((x.shape[0], 2)),
    ],
)
def test_element_by_element_and_shapes(function) -> None:
    same(function, numbers(4, 6))


@pytest.mark.parametrize(
    "equation", ["bij,jxy->bixy", "bij,bkj->bik", "bij,bjk->bik", "bij,bij->b", "bji,jxy->bixy"]
)
def test_products(equation: str) -> None:
    left, right = equation.split("->")[0].split(",")
    sizes = {"b": 4, "i": 3, "j": 4, "k": 5, "x": 2, "y": 3}
    given = [numbers(*(sizes[letter] for letter in side)) for side in (left, right)]
    if right.startswith("b"):
        same(lambda x, y: jnp.einsum(equation, x, y), *given)
    else:
        same(lambda x: jnp.einsum(equation, x, MATRIX), given[0])


def test_several_inner_axes() -> None:
    out = numbers(2, 3, 5)
    same(lambda x: jax.lax.dot_general(x, out, (((2, 3), (0, 1)), ((), ()))), numbers(4, 6, 2, 3))


def test_rows_of_a_table_and_of_each_row() -> None:
    ids = np.array([[0, 4], [2, 2], [3, 1], [4, 0]], np.int32)
    same(lambda i: jnp.asarray(TABLE)[i], ids)
    last = np.array([1, 0, 2, 2], np.int32)
    same(
        lambda x, i: jnp.take_along_axis(x, i[:, None, None], axis=1)[:, 0], numbers(4, 3, 2), last
    )


def test_a_scan_over_weights() -> None:
    def layers(x):
        return jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, numbers_of_layers)[0]

    numbers_of_layers = numbers(3, 6, 6)
    same(layers, numbers(4, 6))


def test_what_is_not_known_is_named() -> None:
    with pytest.raises(UserError, match="the towers use sort, which is not known"):
        same(lambda x: jnp.sort(x, axis=1), numbers(4, 6))
    with pytest.raises(UserError, match="gather in a way"):
        same(lambda x: jnp.asarray(TABLE)[x[:, 0], x[:, 1]], np.zeros((4, 2), np.int32))
