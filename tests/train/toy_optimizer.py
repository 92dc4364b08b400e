# SPDX-License-Identifier: Apache-2.0
"""An optimizer that is linear in the gradients, so that rounding stays as small as it is."""

import optax

from cots_jax.train.state import unless_broken


def descent() -> optax.GradientTransformationExtraArgs:
    """Gradient descent with momentum; like the package's own it keeps its state from a step that
    does not count."""
    inner = optax.trace(0.5)

    def update(updates, state, params=None, **extra):
        updates, new = inner.update(updates, state, params)
        return updates, unless_broken(new, state, extra["finite"])

    return optax.GradientTransformationExtraArgs(inner.init, update)
