# SPDX-License-Identifier: Apache-2.0
"""Splits are read out of names as published sets have them."""

import pathlib

import pytest

from cots_jax.data.prepare.splits import split_in_name, splits_in_names
from cots_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00012.parquet", "train"),
        ("data/TEST-00000-of-00009-ab12.parquet", "test"),
        ("validation/0000.parquet", "val"),
        ("captions_val2017.json", "val"),
        ("captions_train2014.json", "train"),
        ("dev.tar", "dev"),
        ("test/train-of-thought/../x/00.tar", "train"),
        ("training_00000.tar", "train"),
        ("constrained-0.tar", None),
        ("evaluation.tar", None),
        ("trains/00001.tar", None),
        ("mytrain.tar", None),
        ("00000.tar", None),
    ],
)
def test_names(name, split):
    assert split_in_name(pathlib.PurePath(name)) == split


def test_some_names_with_a_split_and_some_without_are_refused():
    paths = [pathlib.PurePath(name) for name in ("train-0.tar", "0.tar")]
    with pytest.raises(UserError, match=r"train-0\.tar names a split and 0\.tar does not"):
        splits_in_names(paths)
    assert splits_in_names(paths[1:]) == {paths[1]: None}
