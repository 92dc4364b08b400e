# SPDX-License-Identifier: Apache-2.0
"""Stacked parameters of blocks, cut and scanned over without copies (own choice)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Params = Any


@jax.custom_vjp
def split_last(stack: Params) -> tuple[Params, Params]:
    """Leaves [layers, …] cut into all blocks but the last, and the last without its axis.

    As slices, the gradients of both would be padded to whole stacks and added.
    """
    return jax.tree.map(lambda leaf: leaf[:-1], stack), jax.tree.map(lambda leaf: leaf[-1], stack)


def _split_forward(stack: Params) -> tuple[tuple[Params, Params], None]:
    return split_last(stack), None


def _split_backward(_: None, grads: tuple[Params, Params]) -> tuple[Params]:
    first, last = grads
    return (jax.tree.map(lambda one, other: jnp.concatenate([one, other[None]]), first, last),)


split_last.defvjp(_split_forward, _split_backward)


def scan_but_last(
    one: Callable[[Array, Params], Array],
    x: Array,
    stack: Params,
    kept: Callable[..., Any] | None,
) -> tuple[Array, Params]:
    """x through `one(x, params)` for each block but the last, whose parameters come back.

    kept: what the backward pass finds kept, a policy of `jax.checkpoint`. To run over
    `split_last` would copy nearly all parameters, and so would to keep for the backward pass what
    is taken out of the stack. So it runs over numbers of blocks and over noughts that nothing
    reads, whose gradients are those of the blocks.
    """
    values = jax.lax.stop_gradient(stack)
    noughts, last = _noughts_and_last(stack)
    blocks = jnp.arange(jax.tree.leaves(stack)[0].shape[0] - 1)

    def step(x: Array, at: tuple[Array, Params]) -> tuple[Array, None]:
        block, nought = at
        params = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, block, keepdims=False), values
        )
        return one(x, _with_gradient(params, nought)), None

    step = jax.checkpoint(step, prevent_cse=False, policy=kept)
    return jax.lax.scan(step, x, (blocks, noughts))[0], last


# fmt: off
_WORKED_OUT_AGAIN = {
    "add", "sub", "mul", "div", "neg", "max", "min", "square", "integer_pow", "pow", "exp", "erf",
    "erfc", "tanh", "logistic", "sqrt", "rsqrt", "select_n", "lt", "le", "gt", "ge", "eq", "ne",
    "and", "or", "not", "convert_element_type",
    "abs", "polynomial", "bitcast_convert_type",
    # moved
    "broadcast_in_dim", "copy", "squeeze", "reshape", "transpose", "slice", "dynamic_slice",
}
# fmt: on


def products_and_sums(primitive: Any, *_: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint` that keeps products, sums and what is named (own choice).

    What is element by element or only moved, as what `scan_but_last` takes out of the stack, is
    cheaper to work out again than to write and read. A primitive that is not known here is kept.
    A function with a derivative of its own, as JAX 0.12 has one in `erfc`, is what is in it.
    """
    if primitive.name == "custom_jvp_call":
        called = params["call_jaxpr"]
        equations = getattr(called, "jaxpr", called).eqns
        return any(products_and_sums(one.primitive, **one.params) for one in equations)
    return primitive.name not in _WORKED_OUT_AGAIN


@jax.custom_vjp
def _noughts_and_last(stack: Params) -> tuple[Params, Params]:
    def nought(leaf: Any) -> Array:
        return jnp.zeros((leaf.shape[0] - 1, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(nought, stack), jax.tree.map(lambda leaf: leaf[-1], stack)


def _noughts_forward(stack: Params) -> tuple[tuple[Params, Params], None]:
    return _noughts_and_last(stack), None


_noughts_and_last.defvjp(_noughts_forward, _split_backward)


@jax.custom_vjp
def _with_gradient(params: Params, nought: Params) -> Params:
    """`params`, whose gradient goes to `nought`."""
    return params


def _gradient_forward(params: Params, nought: Params) -> tuple[Params, None]:
    return params, None


def _gradient_backward(_: None, grads: Params) -> tuple[Params, Params]:
    return jax.tree.map(jnp.zeros_like, grads), grads


_with_gradient.defvjp(_gradient_forward, _gradient_backward)
