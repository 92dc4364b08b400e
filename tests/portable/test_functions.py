# SPDX-License-Identifier: Apache-2.0
"""The two functions that leave: float32 whatever the run was, and blind to padding."""

import numpy as np
import pytest
from jax import export
from quick import jit
from random_run import LENGTH, TEXTS, WORDS, write_run

from cots_jax import Pretrained
from cots_jax.portable.functions import Functions
from cots_jax.switches import Precision, Switch


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """Trained in bfloat16, scanned."""
    root = tmp_path_factory.mktemp("narrow")
    keys = {"hardware__precision": "bfloat16", "hardware__scan": "on"}
    return Pretrained.load(write_run(root / "run", **keys))


def test_float32_and_unrolled(narrow: Pretrained) -> None:
    opened, functions = narrow.model.config.vision, Functions.of(narrow).model.config
    assert opened.transformer.precision is Precision.BFLOAT16
    for stack in (functions.vision.transformer, functions.text.transformer):
        assert (stack.precision, stack.scan) == (Precision.FLOAT32, Switch.OFF)
    signature = Functions.of(narrow).signatures(narrow.towers, 4)["text"]
    words = WORDS.encode(TEXTS, LENGTH)
    exact = np.asarray(jit(signature.function)(signature.weights, words.ids, words.length))
    np.testing.assert_allclose(np.linalg.norm(exact, axis=1), 1, atol=1e-6)
    apart = np.abs(exact - narrow.encode_texts(TEXTS)).max()
    assert 1e-4 < apart < 0.2  # bfloat16 has three digits


def test_what_stands_behind_the_length_does_not_matter(narrow: Pretrained) -> None:
    signature = Functions.of(narrow).signatures(narrow.towers, 4)["text"]
    function, words = jit(signature.function), WORDS.encode(TEXTS, LENGTH)
    other = np.where(np.arange(LENGTH) < words.length[:, None], words.ids, WORDS.mask_id)
    assert (other != words.ids).any()
    before, after = (function(signature.weights, ids, words.length) for ids in (words.ids, other))
    np.testing.assert_array_equal(before, after)


def test_what_they_take(narrow: Pretrained) -> None:
    (rows,) = export.symbolic_shape("b")
    found = Functions.of(narrow).signatures(narrow.towers, rows)
    shapes = {name: [x.shape for x in one.inputs.values()] for name, one in found.items()}
    assert shapes == {"image": [(rows, 16, 16, 3)], "text": [(rows, LENGTH), (rows,)]}
    for name, one in found.items():
        assert all(path.startswith(f"{name}/") for path in one.weights)
        assert {array.dtype for array in one.weights.values()} == {np.dtype(np.float32)}
