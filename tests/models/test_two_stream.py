# SPDX-License-Identifier: Apache-2.0
"""Sizes, parameter counts of the published towers, and what the masked predictions can see."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick
import toy_model

from cots_jax.config import build_config
from cots_jax.errors import UserError
from cots_jax.models.two_stream import SIZES, TwoStream, model_size, size_of
from cots_jax.schema import HardwareConfig, MaskedConfig
from cots_jax.switches import Condition, Precision, Remat, Switch

WORDS, CODES, LENGTH = 30, 12, 6


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def shapes_of(name, **hardware):
    size = model_size(name, HardwareConfig(**hardware))
    return jax.eval_shape(TwoStream(size, MaskedConfig()).init_towers, jax.random.key(0))


def block(d, mlp):
    return 4 * (d * d + d) + 2 * d * mlp + mlp + d + 2 * 2 * d


class TestPublishedCounts:
    e = 256

    @pytest.mark.parametrize(("name", "published"), [("b16-224", 85_798_656), ("b16-384", None)])
    def test_vit_b_16(self, name, published):
        """Without its classifier: patches, [CLS], positions, 12 blocks, the final norm."""
        d, side = 768, SIZES[name].vision.side
        positions = side * side + 1
        vit = (16 * 16 * 3 * d + d) + d + positions * d + 12 * block(d, 3072) + 2 * d
        if published is not None:
            assert vit == published
        mask_embedding, projection = d, d * self.e + self.e
        assert count(shapes_of(name)["image"]) == vit + mask_embedding + projection

    def test_bert_base(self):
        """The published 109,482,240 count the pooler, which is no part of the tower."""
        d = 768
        bert = (30_522 + 512 + 2) * d + 2 * d + 12 * block(d, 3072)
        pooler, projection = d * d + d, d * self.e + self.e
        assert bert + pooler == 109_482_240
        assert count(shapes_of("b16-384")["text"]) == bert + projection

    def test_shapes_by_name(self):
        image, text = (shapes_of("b16-384")[tower] for tower in ("image", "text"))
        assert image["patch_embedding"]["kernel"].shape == (768, 768)
        assert image["position_embedding"].shape == (577, 768)
        attention = image["transformer"]["blocks"]["attention"]
        assert attention["qkv"]["kernel"].shape == (12, 768, 3, 12, 64)
        assert attention["out"]["kernel"].shape == (12, 12, 64, 768)
        assert text["token_embedding"].shape == (30_522, 768)
        assert text["position_embedding"].shape == (512, 768)
        assert text["projection"]["kernel"].shape == (768, 256)


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_consistent_and_its_names_do_not_depend_on_the_hardware(name):
    size = SIZES[name]
    assert size.vision.image_size % size.vision.patch == 0
    assert size.vision.embed_dim == size.text.embed_dim
    for stack in (size.vision.transformer, size.text.transformer):
        assert stack.width % stack.heads == 0
    plain = shapes_of(name)
    other = shapes_of(name, scan=Switch.ON, remat=Remat.ON, precision=Precision.BFLOAT16)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), plain) == jax.tree.map(
        lambda x: (x.shape, x.dtype), other
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(plain)} == {np.dtype(np.float32)}


def test_the_hardware_sets_precision_scan_and_remat_and_the_tokenizer_the_vocabulary():
    hardware = HardwareConfig(precision=Precision.BFLOAT16, scan=Switch.ON, remat=Remat.ON)
    size = model_size("tiny-16", hardware, vocabulary=77)
    for stack in (size.vision.transformer, size.text.transformer):
        assert (stack.precision, stack.scan, stack.remat) == (
            Precision.BFLOAT16,
            Switch.ON,
            Remat.ON,
        )
    assert size.text.vocabulary == 77
    assert model_size("tiny-16", hardware).text.vocabulary == SIZES["tiny-16"].text.vocabulary


def test_fresh_towers_are_made_block_by_block_and_do_not_depend_on_the_hardware():
    """Twelve unrolled blocks would be twelve copies of one initialiser for the compiler."""
    fresh = {}
    for scan in Switch:
        size = model_size("photo-64", HardwareConfig(scan=scan))
        init = jax.jit(TwoStream(size, MaskedConfig()).init_towers)
        program = jax.make_jaxpr(init)(jax.random.key(0))
        found = oracles.equations(program.jaxpr)
        unrolled = {e.params["unroll"] for e in found if e.primitive.name == "scan"}
        assert unrolled == {1}
        fresh[scan] = init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, fresh[Switch.ON], fresh[Switch.OFF])


def test_the_config_may_give_the_colours_their_own_mean_and_spread():
    mapping = {"name": "x", "data": {"train": "d#train", "eval": ""}, "duration": "1 steps"}
    mapping |= {"model": "clip-b16-224", "batch": 4}
    usual = size_of(build_config(mapping), WORDS)
    assert usual.vision == model_size("clip-b16-224", HardwareConfig(), WORDS).vision
    mapping |= {"image_mean": [0, 0.25, 0.5], "image_std": [1, 1, 0.5]}
    vision = size_of(build_config(mapping), WORDS).vision
    assert (vision.mean, vision.std) == ((0.0, 0.25, 0.5), (1.0, 1.0, 0.5))


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(UserError, match=r"'b16-256'.*b16-2"):
        model_size("b16-256", HardwareConfig())


def tiny(masked=None, heads=("mvm", "mlm")):
    size = model_size("tiny-16", HardwareConfig(), WORDS)
    size = dataclasses.replace(
        size,
        vision=dataclasses.replace(
            size.vision, transformer=dataclasses.replace(size.vision.transformer, layers=1)
        ),
    )
    return TwoStream(size, masked or MaskedConfig(), CODES, frozenset(heads))


@pytest.mark.parametrize("condition", Condition)
def test_heads_exist_where_they_are_asked_for_and_fit_their_condition(condition):
    masked = MaskedConfig(condition=condition)
    width = {Condition.CLS: 32, Condition.JOINT: 16}[condition]
    for heads in ((), ("mvm",), ("mvm", "mlm")):
        shapes = jax.eval_shape(tiny(masked, heads).init_heads, jax.random.key(0))
        assert set(shapes) == set(heads)
        for head in heads:
            assert shapes[head]["partner"]["kernel"].shape == (width, 32)
    assert shapes["mvm"]["output"]["kernel"].shape == (32, CODES)
    assert shapes["mlm"]["bias"].shape == (WORDS,)
    assert "output" not in shapes["mlm"]  # tied to the token embedding


@functools.cache
def weights():
    model = tiny()
    init = {"towers": model.init_towers, "heads": model.init_heads}
    rng = np.random.default_rng(0)

    def draw(leaf):
        return rng.normal(0, 0.3, leaf.shape).astype(np.float32)

    return {
        name: jax.tree.map(draw, jax.eval_shape(make, jax.random.key(0)))
        for name, make in init.items()
    }


@functools.cache
def predictions():
    """The masked passes of the real towers: logits of both heads."""
    model = tiny()

    @quick.jit
    def predict(params, image, mask, text, shown, length):
        towers, heads = params["towers"], params["heads"]
        patches = toy_model.everywhere(*mask.shape)
        seen = model.encode_image(towers, image, mask, patches).tokens
        partner = model.encode_text(towers, text, length).cls
        codes = model.predict_codes(heads, seen, partner)
        read = model.encode_text(towers, shown, length, toy_model.everywhere(*shown.shape)).tokens
        partner = model.encode_image(towers, image).cls
        return codes, model.predict_words(heads, towers, read, partner)

    return predict


class TestWhatAPredictionSees:
    mask = np.array([[True, False, False, True]] * 2)
    hidden_word = 2

    def predict(self, image=None, text=None, params=None):
        rng = np.random.default_rng(1)
        pixels = rng.normal(size=(2, 1, 16, 16, 3)).astype(np.float32)
        words = rng.integers(5, WORDS, (2, LENGTH)).astype(np.int32)
        if image:
            image(pixels)
        if text:
            text(words)
        shown = words.copy()
        shown[:, self.hidden_word] = 4
        length = np.array([LENGTH, 4], np.int32)
        found = predictions()(params or weights(), pixels, self.mask, words, shown, length)
        return [np.asarray(logits) for logits in found]

    def test_codes_do_not_see_the_masked_patch(self):
        def repaint(pixels):
            pixels[:, :, :8, :8] += 3.0

        (codes, words), (codes_after, words_after) = self.predict(), self.predict(image=repaint)
        np.testing.assert_array_equal(codes, codes_after)
        assert np.abs(words - words_after).max() > 1e-4

    def test_codes_see_the_other_patches_and_the_paired_text(self):
        def repaint(pixels):
            pixels[:1, :, :8, 8:] += 3.0

        def rewrite(words):
            words[:1, 1] = (words[:1, 1] - 5 + 7) % 25 + 5

        codes, _ = self.predict()
        for change in ({"image": repaint}, {"text": rewrite}):
            moved = np.abs(self.predict(**change)[0] - codes).max(axis=(1, 2))
            assert moved[0] > 1e-4
            assert moved[1] < 1e-6

    def test_words_do_not_see_the_hidden_word(self):
        def rewrite(words):
            words[:, self.hidden_word] = (words[:, self.hidden_word] - 5 + 7) % 25 + 5

        (codes, words), (codes_after, words_after) = self.predict(), self.predict(text=rewrite)
        np.testing.assert_array_equal(words, words_after)
        assert np.abs(codes - codes_after).max() > 1e-4

    def test_words_see_the_other_words_and_the_paired_picture(self):
        def rewrite(words):
            words[:1, 1] = (words[:1, 1] - 5 + 7) % 25 + 5

        def repaint(pixels):
            pixels[:1] += 1.0

        _, words = self.predict()
        for change in ({"image": repaint}, {"text": rewrite}):
            moved = np.abs(self.predict(**change)[1] - words).max(axis=(1, 2))
            assert moved[0] > 1e-4
            assert moved[1] < 1e-6

    def test_the_output_is_the_token_embedding(self):
        changed = jax.tree.map(np.copy, weights())
        changed["towers"]["text"]["token_embedding"][3] += 1.0  # a word that no text holds
        words, after = self.predict()[1], self.predict(params=changed)[1]
        moved = np.abs(after - words).max(axis=(0, 1))
        assert moved[3] > 1e-4
        assert np.delete(moved, 3).max() < 1e-5


def test_fresh_towers_are_a_function_of_the_key():
    model = tiny()
    init = jax.jit(model.init_towers)
    one, again, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(again)):
        np.testing.assert_array_equal(x, y)
    kernel = one["text"]["projection"]["kernel"]
    assert np.abs(kernel - other["text"]["projection"]["kernel"]).max() > 1e-3
    assert jnp.isfinite(kernel).all()
