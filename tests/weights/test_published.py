# SPDX-License-Identifier: Apache-2.0
"""The lists of published files go into our models at their full size, to the last array."""

import functools
import pathlib

import jax
import numpy as np
import published
import pytest

from cots_jax.errors import UserError
from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.schema import HardwareConfig, MaskedConfig
from cots_jax.switches import Precision, Switch
from cots_jax.weights import bert, dalle
from cots_jax.weights.load import image_tower, text_parts
from cots_jax.weights.mapping import flat

PROJECTION = {"projection/kernel", "projection/bias"}
MASK = {"mask_embedding"}
FINAL_NORM = {"final_norm/scale", "final_norm/bias"}
# (list, our size, what the list has nothing for)
IMAGE = [
    ("vit-base-patch16-224", "b16-224", PROJECTION | MASK),
    ("vit-base-patch16-224", "b16-384", PROJECTION | MASK),
    ("vit-base-patch16-224-in21k", "b16-384", PROJECTION | MASK),
    ("vit-base-patch16-384", "b16-384", PROJECTION | MASK),
    ("vit-base-patch16-384", "b16-224", PROJECTION | MASK),
    ("beit-base-patch16-224-pt22k", "beit-b16-224", PROJECTION),
    ("beit-base-patch16-224-pt22k-ft22k", "beit-b16-224", PROJECTION | MASK | FINAL_NORM),
    ("beit-base-patch16-384", "beit-b16-384", PROJECTION | MASK | FINAL_NORM),
    ("timm-vit-base-patch16-224", "b16-224", PROJECTION | MASK),
    ("timm-vit-base-patch16-224", "b16-384", PROJECTION | MASK),
    ("vision_transformer-b16", "b16-224", PROJECTION | MASK),
    ("vision_transformer-b16", "b16-384", PROJECTION | MASK),
    ("big_vision-b16", "b16-224", PROJECTION | MASK),
    ("big_vision-b16", "b16-384", PROJECTION | MASK),
    ("clip-vit-base-patch16", "clip-b16-224", MASK),
]
TEXT = [
    ("bert-base-uncased", "b16-384", PROJECTION),
    ("clip-vit-base-patch16", "clip-b16-224", set()),
]
CODEBOOKS = ["dalle-encoder", "flava-image-codebook"]


@functools.cache
def shapes_of(size):
    """Of all our parameters; scanned, as that is traced sooner and is named alike."""
    chosen = TwoStream(
        model_size(size, HardwareConfig(scan=Switch.ON)),
        MaskedConfig(),
        8192,
        frozenset({"mvm", "mlm"}),
    )
    key = jax.random.key(0)
    towers, heads = (jax.eval_shape(f, key) for f in (chosen.init_towers, chosen.init_heads))
    return chosen.config.vision.side, {"towers": towers, "heads": heads}


def image_of(tensors, size):
    side, like = shapes_of(size)
    return image_tower(tensors, side, like["towers"]["image"], source="here")


def text_of(tensors, size):
    return text_parts(tensors, shapes_of(size)[1], source="here")


def codebook_of(tensors, monkeypatch):
    monkeypatch.setattr(dalle, "read_tensors", lambda path: tensors)
    return dalle.read_dalle(pathlib.Path("here"), 24, Precision.FLOAT32)


def assert_filled(found, like, fresh):
    """Every parameter of ours in its shape, but for those that the list has nothing for."""
    leaves, wanted = flat(found), flat(like)
    assert set(wanted) - set(leaves) == fresh
    assert {path: leaf.shape for path, leaf in leaves.items()} == {
        path: leaf.shape for path, leaf in wanted.items() if path not in fresh
    }


def test_every_list_is_looked_at():
    assert {name for name, *_ in [*IMAGE, *TEXT]} | set(CODEBOOKS) == set(published.NAMES)


@pytest.mark.parametrize(("name", "size", "fresh"), IMAGE)
@pytest.mark.parametrize("all_of_them", [False, True])
def test_an_image_tower(name, size, fresh, all_of_them):
    tensors = published.read(name).tensors(all_of_them=all_of_them)
    assert_filled(image_of(tensors, size), shapes_of(size)[1]["towers"]["image"], fresh)


@pytest.mark.parametrize(("name", "size", "fresh"), TEXT)
@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_text_tower(name, size, fresh, all_of_them):
    tensors = published.read(name).tensors(all_of_them=all_of_them)
    found, like = text_of(tensors, size), shapes_of(size)[1]
    assert_filled(found["towers"]["text"], like["towers"]["text"], fresh)
    if "bert" in name:
        fresh = {"partner/kernel", "partner/bias"}
        assert_filled(found["heads"]["mlm"], like["heads"]["mlm"], fresh)
    else:
        assert "heads" not in found


@pytest.mark.parametrize("name", CODEBOOKS)
def test_an_image_tokenizer(name, monkeypatch):
    found = codebook_of(published.read(name).tensors(), monkeypatch)
    assert found.config == dalle.DalleConfig()
    assert_filled(found.params, dalle.shapes_of(found.config), set())


# One array that each list has to have, without what stands before all names.
LOST = {
    "bert-base-uncased": "encoder.layer.11.output.LayerNorm.gamma",
    "clip-vit-base-patch16": "encoder.layers.11.layer_norm2.bias",
    "dalle-encoder": "blocks.group_4.block_2.res_path.conv_3.w",
    "flava-image-codebook": "blocks.group_2.group.block_1.id_path.bias",
    "timm-vit-base-patch16-224": "blocks.11.mlp.fc2.weight",
    "vision_transformer-b16": "Transformer/encoderblock_11/LayerNorm_2/scale",
    "big_vision-b16": "Transformer/encoderblock_11/MlpBlock_0/Dense_1/kernel",
    "beit-base-patch16-224-pt22k": "encoder.layer.11.lambda_2",
    "beit-base-patch16-224-pt22k-ft22k": "encoder.layer.11.attention.attention.value.bias",
    "beit-base-patch16-384": "embeddings.cls_token",
    "vit-base-patch16-224": "layernorm.weight",
    "vit-base-patch16-224-in21k": "encoder.layer.0.output.dense.bias",
    "vit-base-patch16-384": "encoder.layer.11.intermediate.dense.weight",
}


@pytest.mark.parametrize("name", published.NAMES)
def test_what_is_lost_or_strange_is_named(name, monkeypatch):
    tensors = published.read(name).tensors()
    gone = {whole: tensors.pop(whole) for whole in [*tensors] if whole.endswith(LOST[name])}
    tensors["stranger.weight"] = np.zeros(3, np.int8)
    sizes = {listed: size for listed, size, _ in [*IMAGE, *TEXT]}
    with pytest.raises(UserError) as caught:
        if name in CODEBOOKS:
            codebook_of(tensors, monkeypatch)
        elif "bert" in name:
            text_of(tensors, sizes[name])
        else:
            image_of(tensors, sizes[name])
    # CLIP has such an array in either tower, of which the image tower was asked for.
    said = [f"missing: {lost}; left over: stranger.weight" for lost in bert.modern(gone)]
    assert sum(each in str(caught.value) for each in said) == 1


def test_relative_positions_are_of_one_grid():
    tensors = published.read("beit-base-patch16-224-pt22k-ft22k").tensors()
    with pytest.raises(UserError, match=r"bias_table is \[732, 12\] and should be \[2212, 12\]"):
        image_of(tensors, "beit-b16-384")


@pytest.mark.parametrize("name", published.NAMES)
def test_the_list_is_that_of_hugging_faces_class(name):
    """On torch's meta device, under the names that are written to files."""
    listed = published.read(name)
    held = listed.held_against
    if held is None:
        pytest.skip("no class of it in transformers")
    torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0")
    transformers = pytest.importorskip("transformers")
    saving = pytest.importorskip("transformers.core_model_loading")
    with torch.device("meta"):
        config = getattr(transformers, held["config"])(**held["sizes"])
        model = getattr(transformers, held["class"])(config)
    state = saving.revert_weight_conversion(model, model.state_dict())
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    must, may = (
        {name: tensor.shape for name, tensor in bert.modern(tensors).items()}
        for tensors in (listed.tensors(), listed.tensors(all_of_them=True))
    )
    assert must.items() <= theirs.items() <= may.items()
