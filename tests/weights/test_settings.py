# SPDX-License-Identifier: Apache-2.0
"""What `config.json` beside published weights says of their towers."""

import dataclasses
import json

import pytest

from cots_jax.errors import UserError
from cots_jax.models.transformer import Activation
from cots_jax.models.two_stream import SIZES
from cots_jax.weights.settings import (
    CLIP_DEFAULTS,
    CLIP_TEXT_DEFAULTS,
    DEFAULTS,
    check_colours,
    check_settings,
)

CLIP, BERT, MINILM = SIZES["clip-b16-224"], SIZES["b16-224"], SIZES["photo-64-minilm"]


@pytest.fixture
def check(tmp_path):
    """Checks a tower against a config.json of these keys, by its folder and by a file in it."""

    def checked(tower, config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        check_settings(tmp_path / "model.safetensors", tower, "WEIGHTS")
        check_settings(tmp_path, tower, "WEIGHTS")

    return checked


def test_without_one_nothing_is_known(tmp_path):
    check_settings(tmp_path, CLIP.vision, "WEIGHTS")


@pytest.mark.parametrize("config", [{}, {"model": "tiny-16"}, {"architecture": "vit_base"}, [1]])
def test_that_of_others_says_nothing(check, config):
    check(SIZES["tiny-16"].vision, config)


def test_what_is_left_out_is_the_default_of_the_class(check):
    for config in ({"model_type": "clip"}, {"model_type": "clip", "text_config": {}}):
        check(CLIP.vision, config)
        check(CLIP.text, config)
    check(BERT.text, {"model_type": "bert"})
    check(MINILM.text, {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12})
    check(BERT.vision, {"model_type": "vit", "layer_norm_eps": 1e-6})


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        ("BertConfig", DEFAULTS),
        ("ViTConfig", DEFAULTS),
        ("BeitConfig", DEFAULTS),
        ("CLIPVisionConfig", CLIP_DEFAULTS),
        ("CLIPTextConfig", CLIP_TEXT_DEFAULTS),
    ],
)
def test_the_defaults_are_those_of_hugging_face(kind, defaults):
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, kind)()
    for key, value in defaults.items():
        assert getattr(theirs, key, value) == value


@pytest.mark.parametrize("form", ["vision_config", "vision_config_dict", None])
def test_clip_with_the_exact_gelu_is_refused(check, form):
    """As OpenCLIP's are, whose arrays have the names and shapes of OpenAI's."""
    part = {"hidden_act": "gelu"}
    older = {"vision_config": {"hidden_act": "quick_gelu"}}
    config = {"model_type": "clip", **older, form: part} if form else {"model_type": "clip"} | part
    with pytest.raises(UserError, match="hidden_act is gelu there and quick_gelu here"):
        check(CLIP.vision, config)
    exact = dataclasses.replace(CLIP.vision.transformer, activation=Activation.GELU)
    check(dataclasses.replace(CLIP.vision, transformer=exact), config)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"num_attention_heads": 8}, "num_attention_heads is 8 there and 12 here"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05 there and 1e-12 here"),
        ({"layer_norm_eps": "x"}, "layer_norm_eps is x there"),
        ({"hidden_act": "relu"}, "hidden_act is relu there and gelu here"),
        ({"hidden_act": "gelu_new"}, "hidden_act is gelu_new there and gelu here"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
    ],
)
def test_what_differs_is_named(check, said, match):
    with pytest.raises(UserError, match=f"WEIGHTS was trained as another kind .*{match}"):
        check(BERT.text, {"model_type": "bert", **said})


IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5] * 3, [0.5] * 3


def named(file, mean, std):
    hugging_face = file == "preprocessor_config.json"
    said = {"image_mean": mean, "image_std": std} if hugging_face else {"mean": mean, "std": std}
    return json.dumps({"pretrained_cfg": said} if file == "config.json" else said)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "config.json"])
def test_other_colours_are_refused_with_the_keys_that_mend_it(tmp_path, file):
    (tmp_path / file).write_text(named(file, *IMAGENET))
    remedy = r"image_mean=0\.485,0\.456,0\.406 and config\.image_std=0\.229,0\.224,0\.225"
    with pytest.raises(UserError, match=remedy):
        check_colours(tmp_path, BERT.vision, "WEIGHTS")
    mean, std = map(tuple, IMAGENET)
    check_colours(tmp_path, dataclasses.replace(BERT.vision, mean=mean, std=std), "WEIGHTS")
    (tmp_path / file).write_text(named(file, *HALF))
    check_colours(tmp_path / "model.safetensors", BERT.vision, "WEIGHTS")


@pytest.mark.parametrize("said", [{}, {"mean": "red", "std": [1]}, {"pretrained_cfg": "vit"}])
def test_colours_that_are_not_said_are_not_checked(tmp_path, said):
    (tmp_path / "config.json").write_text(json.dumps(said))
    check_colours(tmp_path, BERT.vision, "WEIGHTS")


def test_a_damaged_one_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        check_settings(tmp_path, CLIP.vision, "WEIGHTS")
