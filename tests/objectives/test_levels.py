# SPDX-License-Identifier: Apache-2.0
"""Whether a level is alive: on models whose answer is known, and the KL against a plain sum."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy_model

from cots_jax.data.masking import TextMasking
from cots_jax.models.vision import Encoded
from cots_jax.objectives.levels import (
    code_level,
    entropy_of,
    retrieval_kl,
    word_level,
)

b, PADDED = 8, 2
MASKING = TextMasking(4, toy_model.WORDS, toy_model.SPECIAL)


class Informed(toy_model.ToyTwoStream):
    """Each pair has one code and one word all over; the partner's feature names it, 4 nats sure."""

    def encode_image(self, towers, image, mask=None, positions=None):
        return self._encoded(image[:, 0, 0, 0, 0], positions)

    def encode_text(self, towers, text, length, positions=None):
        return self._encoded(text[:, 1] - 5, positions)

    def _encoded(self, kind, positions):
        rows = len(kind)
        wanted = 0 if positions is None else positions.shape[1]
        blank = jnp.zeros((rows, wanted, toy_model.WIDTH))
        feature = jnp.round(kind.astype(jnp.float32))[:, None]
        return Encoded(blank, jnp.broadcast_to(feature, (rows, 2)), jnp.zeros((rows, 2)))

    def predict_codes(self, heads, hidden, partner):
        return self._logits(hidden, partner, toy_model.CODES, 0)

    def predict_words(self, heads, towers, hidden, partner):
        return self._logits(hidden, partner, toy_model.WORDS, 5)

    def _logits(self, hidden, partner, classes, first):
        chosen = partner[:, 0].astype(jnp.int32) + first
        known = 4.0 * (jnp.arange(classes)[None] == chosen[:, None])
        return jnp.broadcast_to(known[:, None], (*hidden.shape[:2], classes))


class Blind(Informed):
    """The same without the partner."""

    def _logits(self, hidden, partner, classes, first):
        return super()._logits(hidden, jnp.zeros_like(partner), classes, first)


def model_of(kind, **switches):
    masked = toy_model.half_masked(**switches)
    return kind(toy_model.SHAPE, masked, toy_model.CODES, frozenset({"mvm", "mlm"}))


def the_batches(kinds=(0, 1, 2, 3, 4, 5)):
    """Two batches of 6 real pairs and 2 padded ones; pair i is of the kind kinds[i]."""
    kind = np.array([*kinds, 0, 0])
    # In -1..1, as the towers see it, 0 and 1 stand for the kinds 0 and 1: so count in 127.5ths.
    batch = toy_model.random_batch(0, b, tokens=False)
    text = np.where(np.isin(batch.text, toy_model.SPECIAL), batch.text, kind[:, None] + 5)
    return [
        dataclasses.replace(
            batch,
            text=text.astype(np.int32),
            weight=(np.arange(b) < b - PADDED).astype(np.float32),
            image=np.broadcast_to(
                kind[:, None, None, None, None], (b, 1, toy_model.SIDE, toy_model.SIDE, 3)
            ).astype(np.uint8),
        )
        for _ in range(2)
    ]


class Pictured(Informed):
    """Reads the kind of a picture from its grey value, which the view has normalised."""

    def encode_image(self, towers, image, mask=None, positions=None):
        return super().encode_image(towers, (image + 1) * 127.5, mask, positions)


def tokenize(image):
    kind = image[:, 0, 0, 0, 0].astype(jnp.int32)
    return jnp.broadcast_to(kind[:, None], (image.shape[0], 16))


SURE = -oracles.log_softmax([4.0] + [0.0] * (toy_model.CODES - 1))


class TestTokenLevels:
    def test_codes_with_the_own_and_with_the_neighbours_feature(self):
        found = code_level(model_of(Pictured), {}, {}, tokenize, the_batches())
        np.testing.assert_allclose(found.cross_entropy, SURE[0], rtol=1e-5)
        np.testing.assert_allclose(found.exchanged, SURE[1], rtol=1e-6)
        np.testing.assert_allclose(found.difference, 4.0, rtol=1e-6)
        # The first row of each batch is left out: its neighbour is padding.
        assert found.pairs == 2 * (b - PADDED - 1)
        np.testing.assert_allclose(found.unigram_entropy, np.log(5), rtol=1e-6)
        assert found.standard_error == pytest.approx(0, abs=1e-6)

    def test_words_with_the_own_and_with_the_neighbours_feature(self):
        found = word_level(model_of(Pictured), {}, {}, MASKING, the_batches())
        sure = -oracles.log_softmax([4.0] + [0.0] * (toy_model.WORDS - 1))
        np.testing.assert_allclose(found.cross_entropy, sure[0], rtol=1e-5)
        np.testing.assert_allclose(found.exchanged, sure[1], rtol=1e-6)
        np.testing.assert_allclose(found.difference, 4.0, rtol=1e-6)
        assert found.pairs == 2 * (b - PADDED - 1)

    def test_a_model_that_does_not_look_at_its_partner_gains_nothing(self):
        class BlindPictured(Blind, Pictured):
            pass

        for found in (
            code_level(model_of(BlindPictured), {}, {}, tokenize, the_batches()),
            word_level(model_of(BlindPictured), {}, {}, MASKING, the_batches()),
        ):
            assert found.cross_entropy == found.exchanged
            assert found.difference == 0

    def test_the_standard_error_is_that_of_pairs(self):
        """Pairs 2 and 4 have a neighbour of their own kind: no difference there."""
        kinds = (0, 1, 1, 3, 3, 5)
        found = code_level(model_of(Pictured), {}, {}, tokenize, the_batches(kinds))
        gaps = np.array([4.0, 0.0, 4.0, 0.0, 4.0] * 2)
        np.testing.assert_allclose(found.difference, gaps.mean(), rtol=1e-6)
        error = gaps.std(ddof=1) / np.sqrt(len(gaps))
        np.testing.assert_allclose(found.standard_error, error, rtol=1e-6)

    @pytest.mark.parametrize("pairs", [1, 2])
    def test_too_few_pairs_say_so(self, pairs):
        (batch, _) = the_batches()
        few = [toy_model.changed(batch, weight=(np.arange(b) < pairs).astype(np.float32))]
        for found in (
            code_level(model_of(Pictured), {}, {}, tokenize, few),
            word_level(model_of(Pictured), {}, {}, MASKING, few),
        ):
            assert found.pairs == pairs - 1
            assert np.isnan([found.cross_entropy, found.difference, found.standard_error]).all()

    def test_masks_are_fixed_by_the_seed(self):
        model = toy_model.toy_model()
        towers, heads = toy_model.random_towers(0, np.float32), None
        heads = toy_model.random_heads(1, model, np.float32)
        batches = the_batches()
        one, again, other = (
            word_level(model, towers, heads, MASKING, batches, seed) for seed in (0, 0, 1)
        )
        assert one == again
        assert one != other


class TestEntropy:
    def test_of_a_known_distribution(self):
        ids = np.array([3] * 4 + [1] * 2 + [0, 9])
        p = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8])
        np.testing.assert_allclose(entropy_of(ids), -(p * np.log(p)).sum(), rtol=1e-12)
        assert entropy_of(np.zeros(5, int)) == 0


class TestKl:
    def test_agrees_with_a_plain_sum(self):
        rng = np.random.default_rng(0)
        image, text = oracles.unit_rows(rng, 7, 4), oracles.unit_rows(rng, 7, 4)
        wanted = 0.0
        for i in range(7):
            to_text = oracles.log_softmax(text @ image[i] / 0.1)
            to_image = oracles.log_softmax(image @ text[i] / 0.1)
            both = oracles.kl(to_text, to_image) + oracles.kl(to_image, to_text)
            wanted += both / 2 / 7
        np.testing.assert_allclose(retrieval_kl(image, text, 0.1), wanted, rtol=1e-12)

    def test_is_zero_for_towers_that_agree(self):
        image = oracles.unit_rows(np.random.default_rng(0), 5, 4)
        assert retrieval_kl(image, image, 0.05) == pytest.approx(0, abs=1e-12)
