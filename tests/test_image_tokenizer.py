# SPDX-License-Identifier: Apache-2.0
"""Image tokenizers are opened from published weights, kept by runs, and read whole pictures."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from safetensors.numpy import save_file

from cots_jax import image_tokenizer
from cots_jax.data.transforms import Augmentation, tokenizer_view
from cots_jax.errors import UserError
from cots_jax.image_tokenizer import (
    is_of_hub,
    load_frozen,
    load_image_tokenizer,
    save_frozen,
)
from cots_jax.models.dalle import DalleConfig, Encoder
from cots_jax.models.image_tokens import picture_ids
from cots_jax.switches import Precision
from cots_jax.weights.dalle import formats, shapes_of
from cots_jax.weights.mapping import export_tree, flat

SMALL = DalleConfig(image_size=32, codes=24, hidden=8, blocks=1)


def random_params(config=SMALL, seed=0):
    """He's start, so that what is in a picture reaches the codes."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, dict(shapes_of(config)))


def cells(rows, side, cell):
    """Pictures in 0..1 of flat cells in random colours."""
    colours = np.random.default_rng(1).random((rows, side // cell, side // cell, 3))
    return colours.repeat(cell, axis=1).repeat(cell, axis=2)


def write(folder: pathlib.Path, names: int = 0, config=SMALL) -> str:
    folder.mkdir(exist_ok=True)
    tensors = export_tree(random_params(config), formats(config.blocks)[names])
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def pictures(rows=4, side=64):
    return jnp.asarray(np.rint(cells(rows, side, 16) * 255)[:, None].astype(np.uint8))


def test_a_missing_tokenizer_names_the_config_that_trains_it(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "runs"
    command = f"--config=configs/dvae.py:flickr8k --workdir={folder}$"
    with pytest.raises(UserError, match=command):
        load_image_tokenizer(str(folder), "configs/dvae.py:flickr8k")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("facebook/flava-image-codebook", True),
        ("runs/demo-dvae", False),
        ("here/dvae", False),
        ("./dvae", False),
        (".cache/dvae", False),
        ("/dvae", False),
        ("dvae", False),
        ("dvae/", False),
        ("a/b/c", False),
    ],
)
def test_names_of_the_hub(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_of_hub(name) is expected


def test_the_hub_is_asked_beside_the_config_that_would_train_one(tmp_path, monkeypatch):
    folder = write(tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_tokenizer, "fetched", lambda name, key: pathlib.Path(folder))
    found = load_image_tokenizer("facebook/flava-image-codebook", "configs/dvae.py", grid=4)
    assert found.config == SMALL
    assert found.lineage == ("facebook/flava-image-codebook",)


@pytest.mark.parametrize("names", [0, 1])
def test_published_weights_tell_their_own_size(names, tmp_path):
    found = load_image_tokenizer(write(tmp_path / "w", names), grid=4)
    assert found.config == SMALL
    wanted = flat(random_params())
    for path, leaf in flat(found.params).items():
        np.testing.assert_array_equal(leaf, wanted[path])


def test_hugging_faces_config_beside_the_weights_is_no_run(tmp_path):
    folder = write(tmp_path / "w", 1)
    (tmp_path / "w" / "config.json").write_text('{"model_type": "flava_image_codebook"}')
    assert load_image_tokenizer(folder, grid=4).config == SMALL


def test_other_weights_are_refused(tmp_path):
    save_file({"encoder.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"no image tokenizer .* first names are encoder.weight"):
        load_image_tokenizer(str(tmp_path))


def test_a_damaged_encoder_lists_what_is_wrong(tmp_path):
    tensors = export_tree(random_params(), formats(1)[0])
    tensors["blocks.group_2.block_1.id_path.w"] = np.zeros((3, 3, 1, 1), np.float32)
    del tensors["blocks.group_3.block_1.res_path.conv_2.b"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"conv_2.b.*id_path.w is \[3, 3, 1, 1\]"):
        load_image_tokenizer(str(tmp_path))


def test_the_published_size():
    """OpenAI's encoder.pkl holds 53.8 million numbers, 215 MB of float32."""
    shapes = flat(dict(shapes_of(DalleConfig())))
    assert sum(int(np.prod(leaf.shape)) for leaf in shapes.values()) == 53_786_240
    assert shapes["input/kernel"].shape == (7, 7, 3, 256)
    assert shapes["output/kernel"].shape == (1, 1, 2048, 8192)
    assert DalleConfig().grid == 24


def test_a_run_keeps_its_copy(tmp_path):
    tokenizer = load_image_tokenizer(write(tmp_path / "w"), grid=4, precision=Precision.BFLOAT16)
    save_frozen(tmp_path / "run", tokenizer)
    kept = load_frozen(tmp_path / "run")
    assert kept.config == tokenizer.config
    assert kept.lineage == tokenizer.lineage
    assert flat(kept.params).keys() == flat(tokenizer.params).keys()
    for path, leaf in flat(kept.params).items():
        np.testing.assert_array_equal(leaf, flat(tokenizer.params)[path])


def test_whole_pictures_are_read_at_the_tokenizers_own_size(tmp_path):
    tokenizer = load_image_tokenizer(write(tmp_path / "w"), grid=4)
    image = pictures()
    small = tokenizer_view(None, image, Augmentation(), 32, jittered=False)
    wanted = picture_ids(tokenizer.config, tokenizer.params, small[:, 0])
    ids = tokenizer.ids(image)
    assert ids.shape == (4, 16)
    np.testing.assert_array_equal(ids, wanted)
    assert len(np.unique(ids)) > 2


@pytest.mark.parametrize("pieces", [2, 4])
def test_pieces_give_the_same_ids(pieces):
    params = jax.tree.map(jnp.asarray, random_params())
    pixels = jnp.asarray(cells(8, 32, 8), jnp.float32)
    whole = picture_ids(SMALL, params, pixels)
    np.testing.assert_array_equal(picture_ids(SMALL, params, pixels, pieces), whole)
    assert (np.asarray(whole)[0] != np.asarray(whole)[1]).any()


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_no_more_than_a_piece_is_encoded_at_once(pieces):
    pixels = jnp.zeros((8, 32, 32, 3))
    jaxpr = jax.make_jaxpr(lambda params: picture_ids(SMALL, params, pixels, pieces))
    found = oracles.equations(jaxpr(random_params()).jaxpr)
    convolved = {e.outvars[0].aval.shape[0] for e in found if "conv_general" in e.primitive.name}
    assert convolved == {8 // pieces}


def test_bfloat16_is_near_and_gives_float32_log_odds():
    params = jax.tree.map(jnp.asarray, random_params())
    pixels = jnp.asarray(cells(2, 32, 8), jnp.float32)
    narrow = dataclasses.replace(SMALL, precision=Precision.BFLOAT16)
    exact = Encoder(SMALL).apply({"params": params}, pixels)
    found = Encoder(narrow).apply({"params": params}, pixels)
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
