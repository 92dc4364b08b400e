# SPDX-License-Identifier: Apache-2.0
"""What is said where an image tokenizer is missing."""

import pathlib

import pytest

from cots_jax.errors import UserError
from cots_jax.pretrained import load_image_tokenizer


def test_a_missing_tokenizer_names_the_config_that_trains_it(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "runs"
    command = f"--config=configs/dvae.py:flickr8k --workdir={folder}$"
    with pytest.raises(UserError, match=command):
        load_image_tokenizer(folder, "configs/dvae.py:flickr8k")
