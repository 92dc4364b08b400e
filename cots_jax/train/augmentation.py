# SPDX-License-Identifier: Apache-2.0
"""The augmentation of a config, normalised as its image tower wants it."""

import dataclasses
from typing import Any

from cots_jax.data.transforms import Augmentation
from cots_jax.models.vision import VisionConfig
from cots_jax.schema import AugmentationConfig


def augmentation_of(config: AugmentationConfig, vision: VisionConfig) -> Augmentation:
    """Raises UserError where a number is out of its range."""
    fields: dict[str, Any] = dataclasses.asdict(config)
    fields |= {"crop": fields["crop"] or None, "mean": vision.mean, "std": vision.std}
    return Augmentation(**fields)
