# SPDX-License-Identifier: Apache-2.0
"""Products with kernels: their values and gradients, and what XLA makes of them on a CPU."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick

from cots_jax.models import transformer
from cots_jax.models.products import bfloat16_operands_dot, float32_dot
from cots_jax.models.transformer import Transformer, TransformerConfig
from cots_jax.switches import Precision, Remat, Switch

EXACT = jax.lax.Precision.HIGHEST
DEEP = TransformerConfig(layers=2, width=16, heads=2, mlp=24)
# Shapes of x and of the kernel, and how many axes are contracted: a dense layer, query, key and
# value by heads, the heads' output, and a single row.
SHAPES = {
    "dense": ((3, 5, 4), (4, 6), 1),
    "heads": ((3, 5, 4), (4, 3, 2, 2), 1),
    "output": ((3, 5, 2, 3), (2, 3, 4), 2),
    "row": ((4,), (4, 6), 1),
}


def arrays(name, dtype=np.float64):
    of_x, of_kernel, count = SHAPES[name]
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=of_x).astype(dtype), rng.normal(size=of_kernel).astype(dtype)
    g = rng.normal(size=(*of_x[: x.ndim - count], *of_kernel[count:])).astype(dtype)
    axes = tuple(range(x.ndim - count, x.ndim)), tuple(range(count))
    return x, kernel, g, (axes, ((), ()))


@pytest.mark.parametrize("name", SHAPES)
def test_product_and_gradients_are_those_of_the_definition(name):
    x, kernel, g, dimensions = arrays(name)
    count = len(dimensions[0][0])
    with jax.enable_x64(True):
        operands = jnp.asarray(x), jnp.asarray(kernel)
        found, back = jax.vjp(lambda x, k: float32_dot(x, k, dimensions, EXACT), *operands)
        of_x, of_kernel = back(jnp.asarray(g))
    np.testing.assert_allclose(found, np.tensordot(x, kernel, count), rtol=1e-12, atol=1e-14)
    outputs = kernel.ndim - count
    last = list(range(g.ndim - outputs, g.ndim)), list(range(count, kernel.ndim))
    np.testing.assert_allclose(of_x, np.tensordot(g, kernel, last), rtol=1e-12, atol=1e-14)
    rows = list(range(x.ndim - count))
    np.testing.assert_allclose(of_kernel, np.tensordot(x, g, (rows, rows)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["dense", "heads", "output"])
def test_operands_alone_are_rounded_to_bfloat16(name):
    x, kernel, g, dimensions = arrays(name, np.float32)
    count = len(dimensions[0][0])
    operands = jnp.asarray(x), jnp.asarray(kernel)
    found, back = jax.vjp(lambda x, k: bfloat16_operands_dot(x, k, dimensions), *operands)
    of_x, of_kernel = back(jnp.asarray(g))
    low = [np.asarray(jnp.bfloat16(each), np.float64) for each in (x, kernel, g)]
    assert {found.dtype, of_x.dtype, of_kernel.dtype} == {np.dtype(np.float32)}
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(found, np.tensordot(low[0], low[1], count), **near)
    last = list(range(x.ndim - count, g.ndim)), list(range(count, kernel.ndim))
    np.testing.assert_allclose(of_x, np.tensordot(low[2], low[1], last), **near)
    rows = list(range(x.ndim - count))
    np.testing.assert_allclose(of_kernel, np.tensordot(low[0], low[2], (rows, rows)), **near)


@pytest.mark.parametrize(("wanted", "products"), [((0, 1), 3), ((1,), 2)])
def test_pixels_get_no_gradient(wanted, products):
    x, kernel, _, dimensions = arrays("dense", np.float32)

    def loss(x, kernel):
        return float32_dot(x, kernel, dimensions).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=wanted))(x, kernel).jaxpr
    found = [e for e in oracles.equations(jaxpr) if e.primitive.name == "dot_general"]
    assert len(found) == products


@pytest.mark.parametrize("product", [float32_dot, bfloat16_operands_dot])
@pytest.mark.parametrize(
    "dimensions", [(((0,), (0,)), ((), ())), (((1,), (1,)), ((), ())), (((2,), (1,)), ((0,), (0,)))]
)
def test_other_axes_are_refused(product, dimensions):
    with pytest.raises(ValueError, match="meant are"):
        product(jnp.ones((2, 4)), jnp.ones((4, 4)), dimensions)


@functools.cache
def gradients(config, own_rules=True):
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        if not own_rules:
            patch.setitem(transformer.DOTS, Precision.FLOAT32, jax.lax.dot_general)
        return quick.jit(lambda params: jax.grad(total)(params, config))(some_params(config))


@pytest.mark.parametrize(("scan", "remat"), [("off", "off"), ("on", "off"), ("on", "dots")])
def test_gradients_of_a_stack_are_those_without_rules_of_our_own(scan, remat):
    config = dataclasses.replace(DEEP, scan=Switch(scan), remat=Remat(remat))
    found, wanted = gradients(config), gradients(DEEP, own_rules=False)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def total(params, config):
    x = jax.random.normal(jax.random.key(1), (2, 5, config.width))
    return jnp.sum(Transformer(config).apply({"params": params}, x) ** 2)


def some_params(config):
    x = jnp.zeros((2, 5, config.width))
    return quick.jit(Transformer(config).init)(jax.random.key(0), x)["params"]


def program(config):
    """What the gradient is compiled to on this CPU."""
    params = some_params(config)
    return jax.jit(jax.grad(total), static_argnums=1).lower(params, config).compile().as_text()


def longest_with_a_copy(text):
    """Instructions of the longest fusion that lays something out anew."""
    bodies = re.findall(r"^%fused_computation\S* \(.*?^\}", text, re.MULTILINE | re.DOTALL)
    return max(body.count(" = ") for body in bodies if " copy(" in body or " transpose(" in body)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16_OPERANDS])
def test_no_copy_computes_the_gradient_of_all_blocks_above_again(precision):
    deep = dataclasses.replace(DEEP, precision=precision)
    found = {
        longest_with_a_copy(program(dataclasses.replace(deep, layers=layers))) for layers in (2, 4)
    }
    assert len(found) == 1, found


def test_no_stack_of_all_blocks_is_converted_in_a_scan():
    """Bf16 numbers that a scan keeps are converted back at once, all of them in every block."""
    config = dataclasses.replace(DEEP, layers=3, scan=Switch.ON)
    text = program(dataclasses.replace(config, precision=Precision.BFLOAT16_OPERANDS))
    whole = re.findall(r"= \w+\[3,[\d,]+\]\S* convert\(", text)
    assert "bf16[" in text and not whole
