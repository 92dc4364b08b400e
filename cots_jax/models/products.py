# SPDX-License-Identifier: Apache-2.0
"""Products of activations with kernels whose gradients XLA's CPU code computes well.

Left to itself it fuses the copy that lays a product's first operand out anew with all that makes
this operand. In a deep stack that is the gradient of every block above, worked out again, element
by element in strides, in each block: two fifths of the towers' time at the demo's size
(docs/profile.md). So the gradients are written out here, in the operands' order in which no such
copy is made. All of it is an own choice (O).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float


def float32_dot(
    x: Float[Array, "..."],
    kernel: Float[Array, "..."],
    dimensions: Any,
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "..."]:
    """`lax.dot_general` of x's last axes with the kernel's first ones; in reverse mode only.

    Raises ValueError for other axes.
    """
    return _exact(x, kernel, _contracted(x, dimensions), precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _exact(x: Array, kernel: Array, count: int, precision: Any) -> Array:
    return _of_last_axes(x, kernel, count, precision)


def _forward(x: Any, kernel: Any, count: int, precision: Any) -> tuple[Array, tuple[Any, Any]]:
    """With the kernel kept only where x has a gradient, which pixels have not."""
    product = _of_last_axes(x.value, kernel.value, count, precision)
    return product, (x.value, kernel.value if x.perturbed else None)


def _backward(
    count: int, precision: Any, saved: tuple[Array, Array | None], g: Array
) -> tuple[Array | None, Array]:
    x, kernel = saved
    rows = x.ndim - count
    of_x = None
    if kernel is not None:
        axes = tuple(range(rows, g.ndim)), tuple(range(count, kernel.ndim))
        of_x = jax.lax.dot_general(g, kernel, (axes, ((), ())), precision)
    shape = *x.shape[rows:], *g.shape[rows:]
    if _is_whole_on_each_device():
        # As a product of two matrices XLA's CPU code takes the first one as it lies.
        length = math.prod(x.shape[:rows])
        x, g, rows = x.reshape(length, -1), g.reshape(length, -1), 1
    axes = tuple(range(rows)), tuple(range(rows))
    of_kernel = jax.lax.dot_general(x, g, (axes, ((), ())), precision)
    return of_x, of_kernel.reshape(shape)


def _of_last_axes(x: Array, kernel: Array, count: int, precision: Any) -> Array:
    axes = tuple(range(x.ndim - count, x.ndim)), tuple(range(count))
    return jax.lax.dot_general(x, kernel, (axes, ((), ())), precision)


_exact.defvjp(_forward, _backward, symbolic_zeros=True)


def _is_whole_on_each_device() -> bool:
    """Whether kernels are: flattening one that is cut would move it between devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == mesh.shape.get("data", 1)


def bfloat16_operands_dot(
    x: Float[Array, "..."], kernel: Float[Array, "..."], dimensions: Any, **_: Any
) -> Float[Array, "..."]:
    """The same with bf16 operands and a float32 result, in the backward pass too."""
    count = _contracted(x, dimensions)
    inner = math.prod(kernel.shape[:count])
    product = _product(x.reshape(-1, inner), kernel.reshape(inner, -1))
    return product.reshape(*x.shape[: x.ndim - count], *kernel.shape[count:])


@jax.custom_vjp
def _product(x: Float[Array, "r i"], kernel: Float[Array, "i o"]) -> Float[Array, "r o"]:
    return _low_dot("ri,io->ro", x, kernel)


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    # Named, so that a scan over blocks keeps it: what is worked out again in the backward pass is
    # worked out in strides, where the copy below lays it out anew.
    x = checkpoint_name(x, "operand")
    return _low_dot("ri,io->ro", x, kernel), (x, kernel)


def _product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # Without the cast of the cotangent both products would run in float32, at half the speed.
    x, kernel = (one.astype(jnp.bfloat16) for one in saved)
    g = g.astype(jnp.bfloat16)
    # XLA's CPU code has bf16 products of row-major operands only: where the first one lies
    # transposed, both are converted to float32, which takes twice as long as transposing it.
    turned = with_layout_constraint(x.T, Layout(major_to_minor=(0, 1)))
    return _low_dot("ro,io->ri", g, kernel), _low_dot("ir,ro->io", turned, g)


_product.defvjp(_product_forward, _product_backward)


def _low_dot(equation: str, a: Array, b: Array) -> Array:
    low = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(equation, *low, preferred_element_type=jnp.float32)


def _contracted(x: Array, dimensions: Any) -> int:
    """How many axes: x's last ones, of the kernel the first ones."""
    (of_x, of_kernel), batch = dimensions
    count = len(of_x)
    last, first = tuple(range(x.ndim - count, x.ndim)), tuple(range(count))
    if (tuple(of_x), tuple(of_kernel)) != (last, first) or any(batch):
        raise ValueError(f"contracts {dimensions} of {x.ndim} axes; meant are x's last ones")
    return count
