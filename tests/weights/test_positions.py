# SPDX-License-Identifier: Apache-2.0
"""Position embeddings on another grid, against the code that the sources use."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.errors import UserError
from cots_jax.weights.positions import Resize, resized_positions


def table(side, width=5, seed=0):
    return np.random.default_rng(seed).normal(size=(side * side + 1, width))


@pytest.mark.parametrize(
    ("how", "antialias"), [(Resize.BICUBIC, False), (Resize.ANTIALIASED, True)]
)
@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 8), (16, 2), (3, 1), (1, 4)])
def test_bicubic_is_that_of_torch(old, new, how, antialias):
    torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0")
    before = table(old)
    found = resized_positions(before, new, how)
    grid = torch.tensor(before[1:].reshape(1, old, old, -1)).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(
        grid, size=(new, new), mode="bicubic", align_corners=False, antialias=antialias
    )
    wanted = wanted.permute(0, 2, 3, 1).reshape(new * new, -1).numpy()
    np.testing.assert_allclose(found[1:], wanted, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found[0], before[0])


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 8), (4, 2)])
def test_corners_is_scipys_zoom(old, new):
    ndimage = pytest.importorskip("scipy.ndimage")
    before = table(old)
    grid = before[1:].reshape(old, old, -1)
    wanted = ndimage.zoom(grid, (new / old, new / old, 1), order=1)
    found = resized_positions(before, new, Resize.CORNERS)
    np.testing.assert_allclose(found[1:].reshape(new, new, -1), wanted, rtol=0, atol=1e-12)


@given(old=st.integers(1, 9), new=st.integers(1, 9), how=st.sampled_from(list(Resize)))
def test_a_constant_stays_constant_and_the_dtype_stays(old, new, how):
    before = np.full((old * old + 1, 3), 2.5, np.float32)
    after = resized_positions(before, new, how)
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, np.full((new * new + 1, 3), 2.5), rtol=1e-6)


def test_the_same_grid_is_not_touched():
    before = table(4)
    assert resized_positions(before, 4, Resize.BICUBIC) is before


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_what_is_no_square_is_refused(rows):
    with pytest.raises(UserError, match="are no square grid"):
        resized_positions(np.zeros((rows, 3)), 4, Resize.BICUBIC)
