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


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip, Adam moments, decoupled weight decay. Updates are still to be scaled by -lr.

    With layer-wise rates or frozen blocks, a frozen array has neither a gradient nor an update.
    """
    mask = decay_mask if config.decayed is Decayed.MATRICES else _all_but_temperature
    parts = [
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=mask),
    ]
    if config.layer_decay < 1 or config.freeze_image or config.freeze_text:
        rates = layer_rates(config)
        parts = [_scaled(rates, np.sign), *parts, _scaled(rates, np.asarray)]
    return optax.chain(*parts)


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
