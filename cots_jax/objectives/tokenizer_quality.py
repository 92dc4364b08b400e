# SPDX-License-Identifier: Apache-2.0
"""How good a discrete VAE is on held-out pictures: use of its codebook, error, pictures."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cots_jax.batch import ImageBatch
from cots_jax.data.transforms import normalise
from cots_jax.models.apply import apply
from cots_jax.models.dvae import Dvae, DvaeConfig
from cots_jax.models.two_stream import Params
from cots_jax.objectives.reconstruction import (
    check_tokenizer,
    code_counts,
    shrink_and_enlarge,
    squared_error,
    usage_of_counts,
)

PIXELS = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and deviation: the dVAE reads 0..1


@dataclasses.dataclass(frozen=True)
class TokenizerQuality:
    """Errors are mean squared differences over pixels and channels in 0..1, through hard codes."""

    perplexity: float
    dead_fraction: float  # of the codes
    commonest: float  # share of the commonest code
    error: float
    shrunk_error: float  # of the pictures shrunk to the code grid and enlarged again

    def check(self, codes: int) -> None:
        """Raises UserError where the codes are of no use as targets."""
        check_tokenizer(self.perplexity, self.dead_fraction, self.error, self.shrunk_error, codes)


def tokenizer_quality(
    config: DvaeConfig, params: Params, batches: Iterable[ImageBatch]
) -> TokenizerQuality:
    """Of hard codes, over all pictures of weight 1."""
    measure = jax.jit(_measured, static_argnums=0)
    sums = [
        jax.device_get(measure(config, params, *jax.device_put((b.image, b.weight))))
        for b in batches
    ]
    counts, error, bar, pictures = (sum(column) for column in zip(*sums, strict=True))
    use = usage_of_counts(jnp.asarray(counts))
    return TokenizerQuality(
        perplexity=float(use.perplexity),
        dead_fraction=float(use.dead_fraction),
        commonest=float(use.commonest),
        error=float(error / pictures),
        shrunk_error=float(bar / pictures),
    )


def reconstructions(
    config: DvaeConfig, params: Params, images: Array
) -> dict[str, Float[Array, "b s s 3"]]:
    """uint8 pictures [b t s s 3] by name: as they are, through hard codes, and shrunk."""
    pixels = normalise(images, *PIXELS, config.image_size)[:, 0]
    return {
        "picture": pixels,
        "through its codes": apply(Dvae(config), params, pixels, method=Dvae.reconstruct),
        "shrunk and enlarged": shrink_and_enlarge(pixels, config.grid),
    }


def _measured(config: DvaeConfig, params: Params, image: Array, weight: Array) -> tuple[Array, ...]:
    made = reconstructions(config, params, image)
    pixels, *others = made.values()
    ids = apply(Dvae(config), params, pixels, method=Dvae.encode_ids)
    # Ids of padded rows go to a code beyond the last one, which is cut off again.
    ids = jnp.where(weight[:, None] > 0, ids, config.codes)
    counts = code_counts(ids, config.codes + 1)[: config.codes]
    errors = (jnp.sum(weight * squared_error(pixels, x)) for x in others)
    return counts, *errors, jnp.sum(weight)
