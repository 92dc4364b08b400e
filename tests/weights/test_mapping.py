# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of published files against ours: nothing is lost, nothing is made up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cots_jax.errors import UserError
from cots_jax.models.text import Pooling, TextConfig, TextTower
from cots_jax.models.transformer import Norm, TransformerConfig
from cots_jax.models.vision import ImageTower, VisionConfig
from cots_jax.weights import bert, clip, vit
from cots_jax.weights.mapping import export_tree, flat, import_tree

STACK = TransformerConfig(2, 12, 3, 20)
POST = TransformerConfig(2, 12, 3, 20, norm=Norm.POST)
BEIT = TransformerConfig(2, 12, 3, 20, layer_scale=0.1, relative_bias_side=2)


def image_shapes(stack=STACK):
    tower = ImageTower(VisionConfig(8, 4, stack, embed_dim=6))
    return shapes_of(tower, jnp.zeros((1, 1, 8, 8, 3)))


def text_shapes():
    tower = TextTower(TextConfig(POST, positions=9, vocabulary=30, embed_dim=6))
    return shapes_of(tower, jnp.zeros((1, 4), jnp.int32), jnp.array([4]))


def shapes_of(tower, *inputs):
    return jax.eval_shape(tower.init, jax.random.key(0), *inputs)["params"]


def random(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def clip_image_shapes():
    tower = ImageTower(VisionConfig(8, 4, STACK, embed_dim=6, embedding_norm=True))
    return shapes_of(tower, jnp.zeros((1, 1, 8, 8, 3)))


def clip_text_shapes():
    config = TextConfig(STACK, 9, 30, token_types=0, pooling=Pooling.LAST, embed_dim=6)
    return shapes_of(TextTower(config), jnp.zeros((1, 4), jnp.int32), jnp.array([4]))


FORMATS = {
    "clip image": (clip.IMAGE_TOWER, clip_image_shapes),
    "clip text": (clip.TEXT_TOWER, clip_text_shapes),
    "bert": (bert.TEXT_TOWER, text_shapes),
    "vit": (vit.VIT, image_shapes),
    "beit": (vit.BEIT, lambda: image_shapes(BEIT)),
    "timm": (vit.TIMM, image_shapes),
    "augreg": (vit.AUGREG, image_shapes),
    "big_vision": (vit.BIG_VISION, image_shapes),
}


@pytest.fixture(params=FORMATS)
def case(request):
    fmt, shapes = FORMATS[request.param]
    tree = random(shapes())
    return fmt, tree, export_tree(tree, fmt)


def test_out_and_in_again_is_the_same_bit_for_bit(case):
    fmt, tree, tensors = case
    again = flat(import_tree(tensors, fmt, tree, source="x"))
    leaves = flat(tree)
    assert again
    for path, leaf in again.items():
        if path not in fmt.zero and not (fmt is vit.BEIT and path.endswith("qkv/bias")):
            np.testing.assert_array_equal(leaf, leaves[path], err_msg=path)
    for path in fmt.zero:
        assert not again[path].any()
    back = export_tree(import_tree(tensors, fmt, tree, source="x"), fmt)
    assert set(back) <= set(tensors)
    for name, array in back.items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)


def test_everything_but_the_fresh_parts_is_filled(case):
    fmt, tree, tensors = case
    found = set(flat(import_tree(tensors, fmt, tree, source="x")))
    absent = {path.split("/")[0] for path in set(flat(tree)) - found}
    assert absent <= {"projection", "final_norm", "mask_embedding"}
    assert ("projection" in absent) == ("projection/.*" in fmt.fresh)


def test_the_prefix_may_be_there(case):
    fmt, tree, tensors = case
    for prefix in fmt.prefixes:
        named = {prefix + name: tensor for name, tensor in tensors.items()}
        again = import_tree(named, fmt, tree, source="x")
        assert flat(again).keys() == flat(import_tree(tensors, fmt, tree, source="x")).keys()


def test_parts_of_several_kinds_lose_nothing():
    tree = random(text_shapes())
    tensors = export_tree(tree, bert.TEXT_TOWER)
    for name, array in tensors.items():
        if "query" in name:
            tensors[name] = array.astype(np.float16)
    found = flat(import_tree(tensors, bert.TEXT_TOWER, tree, source="x"))
    path = "transformer/blocks/attention/qkv/kernel"
    np.testing.assert_array_equal(found[path][:, :, 1:], flat(tree)[path][:, :, 1:])


def test_what_is_missing_is_named(case):
    fmt, tree, tensors = case
    (gone, *_) = [name for name in tensors if "mask" not in name and "1" in name]
    del tensors[gone]
    with pytest.raises(UserError, match=f"missing: {gone}"):
        import_tree(tensors, fmt, tree, source="x")


def test_what_is_left_over_is_named_unless_it_is_allowed(case):
    fmt, tree, tensors = case
    tensors["stranger.weight"] = np.zeros(3, np.float32)
    with pytest.raises(UserError, match=r"left over: stranger\.weight"):
        import_tree(tensors, fmt, tree, source="x")
    import_tree(tensors, fmt, tree, source="x", allow=r"stranger\..*")


def test_names_are_told_as_the_file_has_them(case):
    fmt, tree, tensors = case
    prefix = next(iter(fmt.prefixes), "")
    named = {prefix + name: tensor for name, tensor in tensors.items()}
    named[f"{prefix}stranger.weight"] = np.zeros(3, np.float32)
    (gone, wrong, *_) = [name for name in named if "mask" not in name and "1" in name]
    del named[gone]
    named[wrong] = np.zeros(1, np.float32)
    with pytest.raises(UserError) as caught:
        import_tree(named, fmt, tree, source="x")
    for said in (f"missing: {gone}", f"another shape: {wrong} is", f"over: {prefix}stranger"):
        assert said in str(caught.value)


@pytest.mark.parametrize("allow", [r"stranger\..*", r"bert\.stranger\..*"])
def test_what_may_be_left_over_is_named_with_the_prefix_or_without_it(allow):
    tree = random(text_shapes())
    tensors = export_tree(tree, bert.TEXT_TOWER) | {"stranger.weight": np.zeros(3, np.float32)}
    named = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    import_tree(named, bert.TEXT_TOWER, tree, source="x", allow=allow)


def test_another_shape_is_named_with_both(case):
    fmt, tree, tensors = case
    name = next(name for name in tensors if tensors[name].ndim >= 2)
    shape = tensors[name].shape
    tensors[name] = np.zeros((*shape[:-1], shape[-1] + 1), np.float32)
    with pytest.raises(UserError, match=r"is .* and should be") as caught:
        import_tree(tensors, fmt, tree, source="x")
    assert name in str(caught.value)


def test_another_depth_is_left_over():
    tree = random(text_shapes())
    tensors = export_tree(tree, bert.TEXT_TOWER)
    deeper = tensors | {
        name.replace("layer.1.", "layer.2."): tensor
        for name, tensor in tensors.items()
        if "layer.1." in name
    }
    with pytest.raises(UserError, match=r"left over: encoder\.layer\.2\..* and 8 more"):
        import_tree(deeper, bert.TEXT_TOWER, tree, source="x")


def test_old_names_of_the_norms():
    names = ("bert.embeddings.LayerNorm.gamma", "a.LayerNorm.beta", "gamma")
    tensors = {name: np.full(2, place) for place, name in enumerate(names)}
    found = bert.modern(tensors)
    assert list(found) == ["bert.embeddings.LayerNorm.weight", "a.LayerNorm.bias", "gamma"]
    assert [int(tensor[0]) for tensor in found.values()] == [0, 1, 2]
