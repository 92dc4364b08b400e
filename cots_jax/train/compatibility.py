# SPDX-License-Identifier: Apache-2.0
"""Whether the parts that a config names fit each other; what does not is an error that says why."""

from cots_jax.data.image_tokens import TokenFacts
from cots_jax.data.masking import masked_count
from cots_jax.data.tokenizer import Tokenizer
from cots_jax.data.transforms import moves, recolours
from cots_jax.errors import UserError
from cots_jax.image_tokenizer import ImageTokenizer
from cots_jax.models.two_stream import TwoStreamConfig
from cots_jax.schema import Config
from cots_jax.switches import Contrast, Negatives, TokenizerInput
from cots_jax.train.augmentation import augmentation_of


def check_compatible(
    config: Config,
    active: frozenset[str],
    size: TwoStreamConfig,
    made_ahead: TokenFacts | None,
    image_tokenizer: ImageTokenizer | None,
    tokenizer: Tokenizer,
) -> None:
    """Raises UserError where what a COTS run is made of does not fit.

    active: objectives that are on at any step.
    made_ahead: of the image tokens beside the pairs, where there are any.
    """
    if "mvm" in active:
        _check_codes(config, size, made_ahead, image_tokenizer)
    _check_lengths(config, size)
    _check_masks(config, active, size, tokenizer)
    _check_frozen(config, size)


def _check_codes(
    config: Config,
    size: TwoStreamConfig,
    made_ahead: TokenFacts | None,
    image_tokenizer: ImageTokenizer | None,
) -> None:
    if image_tokenizer is not None:
        grid, side = image_tokenizer.config.grid, size.vision.side
        if grid != side:
            raise UserError(
                f"the image tokenizer has a grid of {grid} x {grid} codes, the image tower "
                f"{side} x {side} patches: they must agree, so train or name another tokenizer"
            )
        return
    if made_ahead is None:
        raise UserError(
            "masked vision modelling is on and there are no image tokens: name a trained "
            "dVAE in config.image_tokenizer, make them ahead of time (prepare "
            "--image_tokens), or set config.method.weight_mvm=0"
        )
    augmentation = augmentation_of(config.augmentation, size.vision)
    if moves(augmentation):
        raise UserError(
            "the image tokens made ahead of time are of whole pictures: set "
            "config.augmentation.shift, .scale, .crop and .flip_probability to nothing, or "
            "name the tokenizer in config.image_tokenizer to make them online"
        )
    jittered = config.method.masked.tokenizer_input is TokenizerInput.JITTERED
    if jittered and recolours(augmentation):
        raise UserError(
            "the image tokens made ahead of time are of pictures in their own colours: set "
            "config.method.masked.tokenizer_input=clean, or name the tokenizer in "
            "config.image_tokenizer to make them online"
        )


def _check_lengths(config: Config, size: TwoStreamConfig) -> None:
    method = config.method
    momentum = method.contrast is Contrast.MOMENTUM
    if momentum and not method.queue_length and method.negatives is Negatives.QUEUE:
        raise UserError(
            "config.method.queue_length = 0 leaves no negatives: give it a length, or set "
            "config.method.negatives=queue_and_batch"
        )
    length = config.data.text_length
    if length > size.text.positions:
        raise UserError(
            f"config.data.text_length = {length} is more than the {size.text.positions} "
            f"positions of model {config.model}: use {size.text.positions} or fewer"
        )


def _check_frozen(config: Config, size: TwoStreamConfig) -> None:
    wanted = {
        "image": (config.optimizer.freeze_image, size.vision.transformer.layers),
        "text": (config.optimizer.freeze_text, size.text.transformer.layers),
    }
    for tower, (frozen, layers) in wanted.items():
        if frozen > layers:
            raise UserError(
                f"config.optimizer.freeze_{tower} = {frozen}: the {tower} tower of "
                f"{config.model} has {layers} blocks"
            )


def _check_masks(
    config: Config, active: frozenset[str], size: TwoStreamConfig, tokenizer: Tokenizer
) -> None:
    masked = config.method.masked
    if tokenizer.mask_id is None and ("mlm" in active or config.augmentation.word_dropout):
        raise UserError(
            "the tokenizer has no mask token: set config.method.weight_mlm=0 and "
            "config.augmentation.word_dropout=0, or take another tokenizer"
        )
    if "mlm" in active and not masked.text_ratio:
        raise UserError(
            "config.method.masked.text_ratio = 0 masks nothing: raise it, or set "
            "config.method.weight_mlm=0"
        )
    patches = size.vision.tokens
    if "mvm" in active and not masked_count(patches, masked.image_ratio):
        raise UserError(
            f"config.method.masked.image_ratio = {masked.image_ratio} masks none of {patches} "
            f"patches: use {1 / patches:.2g} or more, or set config.method.weight_mvm=0"
        )
