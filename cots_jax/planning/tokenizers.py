# SPDX-License-Identifier: Apache-2.0
"""The image tokenizer that a config's step would run, as shapes; it need not be trained yet."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cots_jax.arguments import load_config
from cots_jax.config import build_config
from cots_jax.errors import UserError
from cots_jax.image_tokenizer import is_of_hub, load_image_tokenizer
from cots_jax.models.dalle import DalleConfig
from cots_jax.models.dvae import Dvae, DvaeConfig
from cots_jax.models.image_tokens import TokenizerConfig
from cots_jax.models.two_stream import SIZES
from cots_jax.schema import Config
from cots_jax.train.assemble import DVAES
from cots_jax.weights.dalle import shapes_of


@dataclasses.dataclass(frozen=True)
class TokenizerShapes:
    """A configuration, and its parameters as shapes."""

    config: TokenizerConfig
    params: Any


def tokenizer_shapes(config: Config) -> TokenizerShapes | None:
    """None where the codes come with the data. Raises UserError for an unknown one."""
    name = config.image_tokenizer
    if not name:
        return None
    grid, precision = SIZES[config.model].vision.side, config.hardware.precision
    if Path(name).exists():
        found = load_image_tokenizer(name, config.image_tokenizer_config, grid, precision)
        return TokenizerShapes(found.config, found.params)
    # a published one that is not here: DALL-E's
    if is_of_hub(name) or not config.image_tokenizer_config:
        dalle = DalleConfig(image_size=8 * grid, precision=precision)
        return TokenizerShapes(dalle, dict(shapes_of(dalle)))
    trains = build_config(load_config(config.image_tokenizer_config).to_dict())
    if trains.model not in DVAES:
        raise UserError(
            f"config.image_tokenizer_config = {config.image_tokenizer_config!r} trains "
            f"{trains.model}, which is no image tokenizer"
        )
    return _dvae(DVAES[trains.model])


def _dvae(config: DvaeConfig) -> TokenizerShapes:
    def make(key: jax.Array) -> Any:
        pixels = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.float32)
        return Dvae(config).init(key, pixels, method=Dvae.encode_ids)["params"]

    return TokenizerShapes(config, jax.eval_shape(make, jax.random.key(0)))
