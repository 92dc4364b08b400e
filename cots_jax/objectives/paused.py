# SPDX-License-Identifier: Apache-2.0
"""An objective that is off at some steps and costs next to nothing then (own choice).

Differentiated as it stands, a `cond` hands everything that its backward pass needs through its
result: copied where the branch is taken, written as zeros where it is not, and either way as large
as all activations inside. Here the branch makes the gradients too, and hands out them alone: zeros
as large as what it differentiates are what is left of its cost while it is off.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Loss = Callable[..., Float[Array, ""]]


def loss_while(on: Bool[Array, ""], loss: Loss, *inputs: Any) -> Float[Array, ""]:
    """`loss(*inputs)` where `on`, else 0, and the gradients of that.

    inputs: pytrees of floating arrays; what else the loss reads must not be differentiated.
    """

    def off(inputs: Any) -> tuple[Float[Array, ""], Any]:
        value = jax.eval_shape(loss, *inputs)
        return jnp.zeros(value.shape, value.dtype), jax.tree.map(jnp.zeros_like, inputs)

    def gradients(inputs: Any) -> tuple[Float[Array, ""], Any]:
        return jax.value_and_grad(lambda all_of_them: loss(*all_of_them))(inputs)

    @jax.custom_vjp
    def value(inputs: Any) -> Float[Array, ""]:
        return jax.lax.cond(on, lambda x: loss(*x), lambda x: off(x)[0], inputs)

    def forward(inputs: Any) -> tuple[Float[Array, ""], Any]:
        return jax.lax.cond(on, gradients, off, inputs)

    def backward(found: Any, cotangent: Float[Array, ""]) -> tuple[Any]:
        return (jax.tree.map(lambda leaf: leaf * cotangent.astype(leaf.dtype), found),)

    value.defvjp(forward, backward)
    return value(inputs)
