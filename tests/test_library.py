# SPDX-License-Identifier: Apache-2.0
"""The package as a library: what `import cots_jax` gives, and vectors of pictures and texts."""

import pathlib
import shutil
import sys

import numpy as np
import pytest
from doors import run_apart
from tiny_world import Tiny

import cots_jax
from cots_jax import Index, Pretrained, UserError
from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.pipeline import image_batches, text_batches
from cots_jax.data.records import open_split
from cots_jax.retrieval.embed import EMBED_BATCH, embed_images, embed_texts


def test_importing_the_package_takes_no_jax(tmp_path: pathlib.Path) -> None:
    program = "import cots_jax, sys; print(sorted({'jax', 'numpy', 'flax'} & {*sys.modules}))"
    assert run_apart(tmp_path, [sys.executable, "-c", program]).out == "[]\n"


def test_what_it_exports() -> None:
    assert {"Index", "Pretrained", "UserError"} <= set(dir(cots_jax))
    assert issubclass(UserError, ValueError)
    assert Index.__module__ == "cots_jax.retrieval.index"
    with pytest.raises(AttributeError, match="no attribute 'Model'"):
        _ = cots_jax.Model


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Pretrained:
    return Pretrained.load(tiny.run)


def test_the_bits_are_those_of_evaluation(tiny: Tiny, model: Pretrained) -> None:
    folder = str(tiny.root / "data" / "tiny")
    size, length = model.preprocessing.size, model.config.data.text_length
    with PairTable([Source(folder, "val")], model.tokenizer, size=size, length=length) as table:
        pictures = embed_images(
            model.towers, model.model, model.preprocessing, image_batches(table, EMBED_BATCH)
        )
        texts = embed_texts(model.towers, model.model, text_batches(table, EMBED_BATCH))
    with open_split(folder, "val") as split:
        records = [split.record(row) for row in range(len(split))]
    originals = [tiny.root / "pictures" / record.id for record in records]
    np.testing.assert_array_equal(model.encode_images(originals), pictures.features)
    captions = [caption for record in records for caption in record.captions]
    np.testing.assert_array_equal(model.encode_texts(captions), texts.features)


def test_a_vector_does_not_depend_on_its_company(model: Pretrained) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (EMBED_BATCH + 3, 16, 16, 3), np.uint8)
    together = model.encode_images(pictures)
    assert together.shape == (EMBED_BATCH + 3, model.model.config.vision.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(model.encode_images(pictures[-1:]), together[-1:])
    np.testing.assert_allclose(model.encode_images(pictures[:1], batch=1), together[:1], atol=1e-5)


def test_empty_lists(model: Pretrained) -> None:
    width = model.model.config.vision.embed_dim
    for found in (model.encode_images([]), model.encode_texts([])):
        assert (found.shape, found.dtype) == ((0, width), np.float32)


def test_which_texts_it_can_read(model: Pretrained) -> None:
    assert model.knows("bars")
    assert model.knows("bars over зебра")
    assert not model.knows("зебра 🐶")
    assert not model.knows(" ")


def test_one_text_is_no_list(model: Pretrained) -> None:
    with pytest.raises(UserError, match=r"write \['a red car'\]"):
        model.encode_texts("a red car")


@pytest.mark.parametrize("batch", [0, -1])
def test_no_row_at_a_time(model: Pretrained, batch: int) -> None:
    with pytest.raises(UserError, match=f"batch={batch}: embed 1 row or more"):
        model.encode_texts(["bars over ring"], batch=batch)


def test_it_is_known_by_its_checkpoint_after_that_is_gone(
    tiny: Tiny, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(tiny.run, tmp_path / "run")
    opened = Pretrained.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert opened.identity() == Pretrained.load(tiny.run).identity()
