# SPDX-License-Identifier: Apache-2.0
"""AdamW against NumPy, and what is decayed."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.schema import HardwareConfig, MaskedConfig, OptimizerConfig
from cots_jax.switches import Decayed
from cots_jax.train.optimizer import decay_mask, layer_rates, make_optimizer
from cots_jax.train.state import advance, fresh_state, unless_broken
from cots_jax.weights.mapping import flat

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
    def compiled(state, grads, rate, finite):
        traced.append(rate)
        return advance(state, grads, rate, optimizer, finite)

    with jax.enable_x64(True):
        state = fresh_state(params(), optimizer, {})
        for step, rate in enumerate(map(jnp.asarray, (0.1, 0.02, 0.3))):
            state = compiled(state, gradients(step), rate, jnp.array(True))
            state = compiled(state, gradients(99), rate, jnp.array(False))  # must not count
    for name, wanted in oracle(config, (0.1, 0.02, 0.3)).items():
        np.testing.assert_allclose(state.params[name], wanted, rtol=1e-6)
    assert len(traced) == 1
    assert (state.step, state.skipped) == (6, 3)


def test_a_step_goes_over_each_array_once():
    """No copies of parameters and moments, and no array of clipped gradients or of updates: what a
    step with momentum towers holds besides its arguments is nothing that grows with them."""
    optimizer = make_optimizer(OptimizerConfig(clip=1.0, weight_decay=0.1))
    kernel = {"kernel": jnp.ones((512, 512))}
    state = fresh_state(kernel, optimizer, jax.tree.map(jnp.copy, kernel))

    def step(state, grads, rate):
        finite = jnp.isfinite(optax.tree.norm(grads))
        new = advance(state, grads, rate, optimizer, finite)
        kept = jax.tree.map(lambda m, p: 0.9 * m + 0.1 * p, state.method, new.params)
        return new.replace(method=unless_broken(kept, state.method, finite))

    compiled = jax.jit(step, donate_argnums=0).lower(state, kernel, jnp.float32(0.1)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < kernel["kernel"].nbytes / 100
    program = compiled.as_text()
    whole = program[program.index("ENTRY") :]
    assert not re.findall(r"= f32\[512,512\]\S* copy\(", whole)
    assert len(re.findall(r"= f32\[512,512\]\S* fusion\(", whole)) == 4


def a_model():
    """Shapes of two towers, of 2 and of 1 blocks, and of their heads, with a temperature."""
    size = model_size("tiny-16", HardwareConfig())
    model = TwoStream(size, MaskedConfig(), 16, frozenset({"mvm", "mlm"}))
    key = jax.random.key(0)
    tree = {
        "towers": jax.eval_shape(model.init_towers, key),
        "heads": jax.eval_shape(model.init_heads, key),
    }
    tree["heads"]["log_temperature"] = jax.ShapeDtypeStruct((), np.float32)
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), tree)


def one_step(config):
    """What a first step at rate 1 takes off parameters of 1 under gradients of 1."""
    tree = a_model()
    optimizer = make_optimizer(config)
    state = fresh_state(tree, optimizer, {})
    grads = jax.tree.map(np.ones_like, tree)
    new = quick.jit(lambda s, g: advance(s, g, jnp.asarray(1.0), optimizer, jnp.array(True)))(
        state, grads
    )
    return flat(jax.tree.map(lambda old, new: np.asarray(old - new), tree, new.params))


class TestLayers:
    BLOCK = "towers/image/transformer/blocks/mlp_in/kernel"

    def test_each_block_has_the_rate_of_the_one_above_times_the_decay(self):
        rates = flat(layer_rates(OptimizerConfig(layer_decay=0.5))(a_model()))
        assert rates["towers/image/patch_embedding/kernel"] == 0.125
        np.testing.assert_array_equal(rates[self.BLOCK].ravel(), [0.25, 0.5])
        assert rates["towers/text/token_embedding"] == 0.25
        np.testing.assert_array_equal(
            rates["towers/text/transformer/blocks/mlp_in/bias"].ravel(), [0.5]
        )
        for name in ("final_norm/scale", "projection/kernel", "mask_embedding"):
            assert rates[f"towers/image/{name}"] == 1
        assert rates["heads/mlm/bias"] == rates["heads/log_temperature"] == 1

    def test_the_rates_reach_the_updates(self):
        config = OptimizerConfig(weight_decay=0.0, clip=0.0)
        plain = one_step(config)
        found = one_step(dataclasses.replace(config, layer_decay=0.5))
        np.testing.assert_allclose(found[self.BLOCK][0], plain[self.BLOCK][0] / 4)
        np.testing.assert_allclose(found[self.BLOCK][1], plain[self.BLOCK][1] / 2)

    def test_frozen_blocks_stay_and_their_gradients_are_not_clipped_with(self):
        config = OptimizerConfig(weight_decay=0.1, freeze_image=1, clip=1.0, epsilon=1.0)
        found = one_step(config)
        assert (found[self.BLOCK][0] == 0).all()
        assert (found[self.BLOCK][1] != 0).all()
        for name in ("patch_embedding/kernel", "cls", "position_embedding"):
            assert (found[f"towers/image/{name}"] == 0).all()
        assert (found["towers/image/mask_embedding"] != 0).all()
        assert (found["towers/text/token_embedding"] != 0).all()
        free = sum(leaf[leaf != 0].size for leaf in found.values())
        clipped = 1 / np.sqrt(free)
        np.testing.assert_allclose(
            found["towers/image/mask_embedding"], clipped / (clipped + 1), rtol=1e-3
        )

    def test_the_text_tower_can_be_frozen_alone(self):
        found = one_step(OptimizerConfig(weight_decay=0.1, freeze_text=1))
        for name in ("token_embedding", "position_embedding", "transformer/blocks/mlp_in/kernel"):
            assert (found[f"towers/text/{name}"] == 0).all()
        assert (found["towers/text/projection/kernel"] != 0).all()
        assert (found["towers/image/cls"] != 0).all()
        assert (found[self.BLOCK] != 0).all()


def test_everything_but_the_temperature_can_be_decayed():
    config = OptimizerConfig(weight_decay=0.5, clip=0.0, decayed=Decayed.ALL)
    found, plain = one_step(config), one_step(dataclasses.replace(config, weight_decay=0.0))
    for name, leaf in found.items():
        more = 0.0 if name.endswith("log_temperature") else 0.5
        np.testing.assert_allclose(leaf - plain[name], more, atol=1e-5)


def test_matrices_and_tables_are_decayed_and_nothing_else():
    tree = a_model()
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
    assert kept == {"bias", "scale", "cls", "mask_embedding", "log_temperature"}
