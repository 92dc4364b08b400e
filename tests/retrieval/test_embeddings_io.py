# SPDX-License-Identifier: Apache-2.0
"""Embeddings from .npy files: what is taken, and what each unfit file is told."""

import numpy as np
import pytest

from cots_jax.errors import UserError
from cots_jax.retrieval.embeddings_io import load_embeddings
from cots_jax.retrieval.metrics import rank_both_ways

GOOD = {
    "I": np.eye(3, 4, dtype=np.float64),
    "T": np.eye(3, 4, dtype=np.float32)[[2, 0, 1, 0]],
    "M": np.array([2, 0, 1, 0]),
}


@pytest.fixture
def load(tmp_path):
    def load_these(**changed):
        paths = [tmp_path / f"{name}.npy" for name in "ITM"]
        for path, array in zip(paths, (GOOD | changed).values(), strict=True):
            np.save(path, array)
        return load_embeddings(*paths)

    return load_these


def test_good_files_are_scored(load):
    e = load()
    ranks = rank_both_ways(e.image, e.text, e.image_group, e.text_group)
    assert (ranks.image_to_text == 1).all() and (ranks.text_to_image == 1).all()
    assert e.image.dtype == np.float32 and e.text_group.tolist() == [2, 0, 1, 0]


def nan_in(array, *place):
    array = array.copy()
    array[place] = np.nan
    return array


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"I": np.zeros(3)}, r"I\.npy: .*shape \[3\]"),
        ({"T": np.zeros((4, 5))}, r"I\.npy is 4 wide and .*T\.npy 5"),
        ({"T": np.zeros((0, 4))}, r"T\.npy: .*shape \[0, 4\]"),
        ({"T": nan_in(GOOD["T"], 3, 1)}, r"T\.npy: 1 of 4 .*first is row 3"),
        ({"I": np.zeros((3, 4), int)}, r"I\.npy: .*int64"),
        ({"I": np.array([[None] * 4] * 3)}, r"I\.npy cannot be read"),
        ({"M": np.array([2, 0, 1])}, r"M\.npy has shape \[3\].* 4 texts"),
        ({"M": np.array([2.0, 0, 1, 0])}, r"M\.npy .*float64"),
        ({"M": np.array([2, 0, 1, 3])}, r"M\.npy: 1 of 4 .*outside 0 to 2 .*text 3, row 3"),
        ({"M": np.array([2, -1, 1, 0])}, r"M\.npy: 1 of 4 .*text 1, row -1"),
        ({"M": np.array([2, 0, 0, 0])}, r"M\.npy: 1 of 3 images have no text .*row 1"),
    ],
)
def test_unfit_files_are_named(load, changed, said):
    with pytest.raises(UserError, match=said):
        load(**changed)


def test_files_that_are_no_array(tmp_path):
    good = tmp_path / "good.npy"
    np.save(good, GOOD["I"])
    with pytest.raises(UserError, match="there is no"):
        load_embeddings(good, tmp_path / "absent.npy", good)
    text = tmp_path / "text.npy"
    text.write_text("not an array")
    with pytest.raises(UserError, match="cannot be read"):
        load_embeddings(text, good, good)
    torn = tmp_path / "torn.npy"
    torn.write_bytes(good.read_bytes()[:-8])
    with pytest.raises(UserError, match="cannot be read"):
        load_embeddings(torn, good, good)
    several = tmp_path / "several.npz"
    np.savez(several, a=GOOD["I"])
    with pytest.raises(UserError, match="several arrays"):
        load_embeddings(several, good, good)
    several.write_bytes(several.read_bytes()[:-8])
    with pytest.raises(UserError, match="cannot be read"):
        load_embeddings(several, good, good)
