# SPDX-License-Identifier: Apache-2.0
"""AdamW against NumPy, and what is decayed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from cots_jax.config import HardwareConfig, MaskedConfig, OptimizerConfig
from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.train.optimizer import decay_mask, make_optimizer
from cots_jax.train.state import advance, fresh_state

CONFIG = OptimizerConfig(weight_decay=0.1, b1=0.8, b2=0.9, epsilon=1e-3, clip=0.5)


def params():
    rng = np.random.default_rng(0)
    return {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}


def gradients(step):
    rng = np.random.default_rng(step + 1)
    return {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2) / 10}


def oracle(config, rates):
    """Clip by the global norm, bias-corrected moments, decoupled decay of the kernel."""
    found = params()
    m, v = ({name: np.zeros_like(x) for name, x in found.items()} for _ in range(2))
    for step, rate in enumerate(rates):
        grads = gradients(step)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        clip = min(1.0, config.clip / norm) if config.clip else 1.0
        for name, decay in (("kernel", config.weight_decay), ("bias", 0.0)):
            g = grads[name] * clip
            m[name] = config.b1 * m[name] + (1 - config.b1) * g
            v[name] = config.b2 * v[name] + (1 - config.b2) * g**2
            mean = m[name] / (1 - config.b1 ** (step + 1))
            square = v[name] / (1 - config.b2 ** (step + 1))
            move = mean / (np.sqrt(square) + config.epsilon) + decay * found[name]
            found[name] = found[name] - rate * move
    return found


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_agrees_with_the_oracle_and_another_rate_compiles_nothing(clip):
    config = dataclasses.replace(CONFIG, clip=clip)
    optimizer = make_optimizer(config)
    traced = []

    @quick.jit
    def compiled(state, grads, rate):
        traced.append(rate)
        return advance(state, grads, rate, optimizer)

    with jax.enable_x64(True):
        state = fresh_state(params(), optimizer, {})
        for step, rate in enumerate((0.1, 0.02, 0.3)):
            state = compiled(state, gradients(step), jnp.asarray(rate))
    for name, wanted in oracle(config, (0.1, 0.02, 0.3)).items():
        np.testing.assert_allclose(state.params[name], wanted, rtol=1e-6)
    assert len(traced) == 1
    assert state.step == 3


def test_matrices_and_tables_are_decayed_and_nothing_else():
    model = TwoStream(
        model_size("tiny-16", HardwareConfig()), MaskedConfig(), 16, frozenset({"mvm", "mlm"})
    )
    key = jax.random.key(0)
    tree = {
        "towers": jax.eval_shape(model.init_towers, key),
        "heads": jax.eval_shape(model.init_heads, key),
    }
    tree = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), tree)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): decayed
        for path, decayed in jax.tree_util.tree_leaves_with_path(decay_mask(tree))
    }
    decayed = {name for name, value in found.items() if value}
    assert {name.rpartition("/")[2] for name in decayed} == {
        "kernel",
        "token_embedding",
        "position_embedding",
        "type_embedding",
    }
    kept = {name.rpartition("/")[2] for name in set(found) - decayed}
    assert kept == {"bias", "scale", "cls", "mask_embedding"}
