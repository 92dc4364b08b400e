# SPDX-License-Identifier: Apache-2.0
"""AdamW with clipping; the learning rate comes from outside, so changing it compiles nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cots_jax.objectives.temperature import NAME as TEMPERATURE
from cots_jax.schema import OptimizerConfig
from cots_jax.switches import Decayed

# Biases, norms, embeddings of single vectors and temperatures are not decayed (common practice).
DECAYED = 2  # least number of axes of a decayed array, the stack's axis not counted
BLOCKS = "transformer/blocks"
EMBEDDINGS = frozenset(
    [
        *("patch_embedding", "cls", "position_embedding", "embedding_norm"),
        *("token_embedding", "type_embedding"),
    ]
)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """Clip, Adam moments, decoupled weight decay. Updates are still to be scaled by -lr.

    `update` takes `finite`, whether this step counts; where it does not, the state stays as it is
    and updates mean nothing. With layer-wise rates or frozen blocks, a frozen array has neither a
    gradient nor an update.
    """
    mask = decay_mask if config.decayed is Decayed.MATRICES else _all_but_temperature
    parts = [
        _clipped(config.clip) if config.clip else optax.identity(),
        _adam(config.b1, config.b2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=mask),
    ]
    if config.layer_decay < 1 or config.freeze_image or config.freeze_text:
        rates = layer_rates(config)
        parts = [_scaled(rates, np.sign), *parts, _scaled(rates, np.asarray)]
    return optax.with_extra_args_support(optax.chain(*parts))


# These two are optax's, written so that a step goes once over each array. A division by the norm is
# too dear for XLA to repeat, and made an array of all clipped gradients; and where whether the step
# counts is decided behind the updates, they hold moments that nobody keeps. XLA then works these
# out again inside of the parameters' update, and copies the old ones, which it overwrites.


def _clipped(clip: float) -> optax.GradientTransformation:
    """Updates scaled down to this global norm where theirs is greater."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        scale = jnp.minimum(1.0, clip / optax.tree.norm(updates))
        return jax.tree.map(lambda update: scale.astype(update.dtype) * update, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformationExtraArgs:
    """Bias-corrected moments (Kingma and Ba, 2015), and updates from those that are kept."""

    def init(params: Any) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, optax.ScaleByAdamState]:
        finite = jnp.asarray(extra["finite"])

        def moment(decay: float, power: int) -> Any:
            def follow(old: jax.Array, g: jax.Array) -> jax.Array:
                return jnp.where(finite, decay * old + (1 - decay) * g**power, old)

            return follow

        mu = jax.tree.map(moment(b1, 1), state.mu, updates)
        nu = jax.tree.map(moment(b2, 2), state.nu, updates)
        count = state.count + finite.astype(jnp.int32)
        steps = jnp.maximum(count, 1)  # 0 after a first step that does not count

        def move(m: jax.Array, v: jax.Array) -> jax.Array:
            mean, square = ((x / (1 - b**steps).astype(x.dtype)) for x, b in ((m, b1), (v, b2)))
            return mean / (jnp.sqrt(square) + epsilon)

        return jax.tree.map(move, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def decay_mask(params: Any) -> Any:
    """True for matrices: kernels and embedding tables."""

    def decayed(path: Any, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return name.endswith(("kernel", "embedding")) and jnp.ndim(leaf) >= DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def layer_rates(config: OptimizerConfig) -> Any:
    """A function of the parameters: what each array's rate is multiplied with.

    The embeddings of a tower have depth 0, block i has depth i + 1, all else (final norm,
    projection, mask embedding, heads) L + 1: the rate is `layer_decay ** (L + 1 - depth)` (BEiT's
    rule; R), and 0 up to depth `freeze_…` where that is above 0 (O). Stacked blocks get one a
    layer.
    """
    frozen = {"image": config.freeze_image, "text": config.freeze_text}

    def rates(params: Any) -> Any:
        layers = _layers(params)

        def rate(path: Any, leaf: Any) -> np.ndarray:
            tower, rest = _place(path)
            if tower not in layers:
                return np.ones((), np.float32)
            top = layers[tower] + 1
            depth = np.asarray(0 if rest.split("/")[0] in EMBEDDINGS else top)
            if rest.startswith(BLOCKS):
                depth = np.arange(1, top).reshape(-1, *[1] * (jnp.ndim(leaf) - 1))
            free = (depth > frozen[tower]) | (frozen[tower] == 0)
            return np.where(free, config.layer_decay ** (top - depth), 0).astype(np.float32)

        return jax.tree_util.tree_map_with_path(rate, params)

    return rates


def _all_but_temperature(params: Any) -> Any:
    def decayed(path: Any, _: Any) -> bool:
        return not jax.tree_util.keystr(path, simple=True).endswith(TEMPERATURE)

    return jax.tree_util.tree_map_with_path(decayed, params)


def _scaled(rates: Any, turned: Any) -> optax.GradientTransformation:
    """Multiplies updates by what `turned` makes of the parameters' rates."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        def scale(update: Any, rate: np.ndarray) -> Any:
            return update * jnp.asarray(turned(rate), update.dtype)

        return jax.tree.map(scale, updates, rates(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _layers(params: Any) -> dict[str, int]:
    """How many blocks each tower has."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        tower, rest = _place(path)
        if tower and rest.startswith(BLOCKS):
            found[tower] = leaf.shape[0]
    return found


def _place(path: Any) -> tuple[str, str]:
    """(tower, path within it); no tower for heads."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    first, _, rest = name.partition("/")
    tower, _, rest = rest.partition("/")
    return (tower, rest) if first == "towers" else ("", name)
