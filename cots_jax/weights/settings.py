# SPDX-License-Identifier: Apache-2.0
"""What the JSON files beside published weights say of a tower, and its arrays do not show.

Hugging Face's files may leave out what is the default of their class.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cots_jax.errors import UserError
from cots_jax.models.text import TextConfig
from cots_jax.models.transformer import Activation
from cots_jax.models.vision import VisionConfig

EPSILON = 5e-6  # of norms, whose epsilons may differ by less: 1e-6 and 1e-12 give the same
COLOURS = 1e-3  # of means and standard deviations, which some files round
ACTIVATIONS = {"gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
DEFAULTS = {
    "hidden_act": "gelu",
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}
CLIP_DEFAULTS = DEFAULTS | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
CLIP_TEXT_DEFAULTS = CLIP_DEFAULTS | {"num_attention_heads": 8}


def check_settings(weights: Path, tower: VisionConfig | TextConfig, source: str) -> None:
    """Sees that published weights, a file or a folder, mean a tower that computes as ours does.

    Where no `config.json` of Hugging Face's is beside them, nothing is known. Raises UserError that
    names what differs.
    """
    theirs = _settings(beside(weights, "config.json"), tower)
    stack = tower.transformer
    ours = {
        "hidden_act": stack.activation,
        "num_attention_heads": stack.heads,
        "layer_norm_eps": stack.epsilon,
        "position_embedding_type": "absolute",
    }
    wrong = [
        f"{key} is {value} there and {ours[key]} here"
        for key, value in theirs.items()
        if not _same(value, ours[key])
    ]
    if wrong:
        raise UserError(
            f"{source} was trained as another kind of tower ({'; '.join(wrong)}): take weights "
            "that config.model computes as they were trained"
        )


def check_colours(weights: Path, vision: VisionConfig, source: str) -> None:
    """Sees that a published tower was trained on colours normalised as ours are.

    Read from Hugging Face's `preprocessor_config.json` or timm's `config.json` beside the weights;
    where there is neither, nothing is known. Raises UserError with the keys to set.
    """
    theirs = _colours(beside(weights, "preprocessor_config.json"), "image_mean", "image_std")
    if not theirs:
        timm = beside(weights, "config.json")
        theirs = _colours(timm.get("pretrained_cfg", timm), "mean", "std")
    if theirs:
        compare_colours(theirs, vision, source)


def compare_colours(theirs: Sequence[float], vision: VisionConfig, source: str) -> None:
    """The same for means and standard deviations of red, green and blue."""
    ours = [*vision.mean, *vision.std]
    if not np.allclose(theirs, ours, rtol=0, atol=COLOURS):
        mean, std = (",".join(map(str, each)) for each in (theirs[:3], theirs[3:]))
        raise UserError(
            f"{source} was trained on colours of another mean and spread than the model's "
            f"{vision.mean} and {vision.std}: set config.image_mean={mean} and "
            f"config.image_std={std}"
        )


def beside(weights: Path, name: str) -> Mapping[str, Any]:
    """A JSON object in the folder of the weights; empty where there is none."""
    file = (weights if weights.is_dir() else weights.parent) / name
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): fetch it again") from error
    return content if isinstance(content, Mapping) else {}


def _settings(config: Mapping[str, Any], tower: VisionConfig | TextConfig) -> dict[str, Any]:
    """Of the tower's part of a config of Hugging Face's, with what it leaves out."""
    kind = str(config.get("model_type", ""))
    if not kind:
        return {}
    name = "text_config" if isinstance(tower, TextConfig) else "vision_config"
    # The older form of CLIP's config has a part twice, and the second one counts.
    parts = (config.get(f"{name}_dict"), config.get(name))
    part = next((part for part in parts if isinstance(part, Mapping) and part), config)
    defaults = DEFAULTS
    if kind.startswith("clip"):
        defaults = CLIP_TEXT_DEFAULTS if name == "text_config" else CLIP_DEFAULTS
    return {key: part.get(key, value) for key, value in defaults.items()}


def _colours(said: Any, *keys: str) -> list[float]:
    """Means and standard deviations of red, green and blue; none where they do not stand there."""
    if not isinstance(said, Mapping):
        return []
    lists = [said[key] for key in keys if isinstance(said.get(key), list)]
    numbers = [each for one in lists for each in one if isinstance(each, int | float)]
    return numbers if len(numbers) == 6 else []


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, Activation):
        return ACTIVATIONS.get(str(theirs), theirs) == ours
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return abs(theirs - ours) <= EPSILON
    return theirs == ours
