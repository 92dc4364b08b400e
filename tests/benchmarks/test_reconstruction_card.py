# SPDX-License-Identifier: Apache-2.0
"""The card of reconstructed signs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from doors import load_benchmark

from cots_jax.errors import UserError
from cots_jax.image_tokenizer import ImageTokenizer
from cots_jax.models.dalle import DalleConfig
from cots_jax.models.dvae import Dvae, DvaeConfig

bench = load_benchmark("reconstruction_card")


def tokenizer(name: str) -> ImageTokenizer:
    """As a run would have left it, but that nothing was learned; the name is the seed."""
    if name == "encoder":
        return ImageTokenizer(DalleConfig(), {}, ())
    config = DvaeConfig(16, 8, codes=8, code_dim=4, width=8)
    key = jax.random.key(int(name))
    params = Dvae(config).init(key, jnp.zeros((1, 16, 16, 3)), key)["params"]
    return ImageTokenizer(config, params, ())


@pytest.fixture(autouse=True)
def folders(monkeypatch):
    monkeypatch.setattr(bench, "load_image_tokenizer", tokenizer)


def test_the_signs_are_twelve_different_ones_on_white():
    signs = bench.signs()
    assert signs.shape == (12, 256, 256, 3)
    assert len({sign.tobytes() for sign in signs}) == 12
    assert (signs[:, 0, 0] == 255).all()
    np.testing.assert_array_equal(signs, bench.signs())


def test_a_card_has_a_row_a_tokenizer_between_the_signs_and_the_bar():
    names = [pathlib.Path(name) for name in ("1", "2", "1")]
    sheet = bench.card(names)
    step = bench.SHOWN + bench.GAP
    assert sheet.size == (bench.GAP + 12 * step, bench.GAP + 5 * step)
    rows = [np.asarray(sheet)[bench.GAP + row * step :][: bench.SHOWN] for row in range(5)]
    np.testing.assert_array_equal(rows[1], rows[3])
    different = {row.tobytes() for row in rows}
    assert len(different) == 4


def test_an_encoder_alone_is_refused():
    with pytest.raises(UserError, match="encoder holds no discrete VAE"):
        bench.card([pathlib.Path("encoder")])
