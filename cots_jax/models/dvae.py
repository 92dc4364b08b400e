# SPDX-License-Identifier: Apache-2.0
"""A small discrete VAE: the image tokenizer of runs that have no published one.

A picture becomes one of v codes for each cell of a grid that is as coarse as the patches of the
image tower. The posterior over the codes is categorical, the prior uniform, and training draws
from the posterior through the Gumbel-softmax relaxation (Jang et al. 2017, Maddison et al. 2017),
as the dVAE of DALL-E does (Ramesh et al. 2021, section 2.1). The layers are our own choice: each
cell is embedded as a whole and sees its neighbours through small convolutions on the code grid,
which is cheap enough to make the ids online. The loss is in `objectives/reconstruction.py`.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from cots_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DvaeConfig:
    """Shape of the tokenizer. `reach` 1 keeps a code local to its cell; 3 shows the neighbours."""

    image_size: int = 32  # pixels a side
    patch: int = 8  # pixels a side of the cell that one code stands for
    codes: int = 256  # v
    code_dim: int = 64
    width: int = 128
    layers: int = 1  # residual blocks in the encoder, and as many in the decoder
    encoder_reach: int = 1  # cells a side that a convolution of the encoder sees; odd
    decoder_reach: int = 3

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            fits = max(self.image_size // self.patch, 1) * self.patch
            raise UserError(
                f"dvae image_size {self.image_size} is not a multiple of patch {self.patch}: "
                f"use {fits} or {fits + self.patch}"
            )
        if self.codes < 2:
            raise UserError(f"dvae codes is {self.codes}: a codebook needs at least 2")
        for name in ("encoder_reach", "decoder_reach"):
            if getattr(self, name) % 2 == 0:
                raise UserError(f"dvae {name} is {getattr(self, name)}: use an odd number of cells")

    @property
    def grid(self) -> int:
        """Cells a side; n = grid ** 2 codes a picture."""
        return self.image_size // self.patch


@flax.struct.dataclass
class DvaeOutput:
    """What training looks at: the posterior, the relaxed draw and the picture made from it."""

    logits: Float[Array, "b n v"]
    codes: Float[Array, "b n v"]
    reconstruction: Float[Array, "b s s 3"]


def patchify(images: Float[Array, "b s s 3"], patch: int) -> Float[Array, "b g g c"]:
    """Cut pictures into cells of patch x patch pixels, c = 3 * patch ** 2, rows first."""
    b, s, _, channels = images.shape
    g = s // patch
    cells = images.reshape(b, g, patch, g, patch, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(b, g, g, patch * patch * channels)


def unpatchify(cells: Float[Array, "b g g c"], patch: int) -> Float[Array, "b s s 3"]:
    """The inverse of `patchify`."""
    b, g, _, _ = cells.shape
    pixels = cells.reshape(b, g, g, patch, patch, 3)
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(b, g * patch, g * patch, 3)


def relax(
    logits: Float[Array, "b n v"], key: Array, temperature: float | Float[Array, ""]
) -> Float[Array, "b n v"]:
    """A Gumbel-softmax draw: rows sum to 1 and near one-hot as the temperature goes to 0."""
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    return jax.nn.softmax((logits + noise) / temperature, axis=-1)


class GridBlock(nn.Module):
    """A pre-norm residual block on the code grid: one convolution, GELU, one pointwise layer."""

    width: int
    reach: int

    @nn.compact
    def __call__(self, x: Float[Array, "b g g d"]) -> Float[Array, "b g g d"]:
        h = nn.LayerNorm(name="norm")(x)
        h = nn.Conv(self.width, (self.reach, self.reach), name="mix")(h)
        h = jax.nn.gelu(h, approximate=False)
        return x + nn.Dense(self.width, name="out")(h)


class Dvae(nn.Module):
    """Encoder to code logits, codebook, decoder to pixels. Pictures are float in 0..1."""

    config: DvaeConfig

    def setup(self) -> None:
        c = self.config
        self.stem = nn.Dense(c.width)
        self.encoder = [GridBlock(c.width, c.encoder_reach) for _ in range(c.layers)]
        self.encoder_norm = nn.LayerNorm()
        self.to_logits = nn.Dense(c.codes)
        self.codebook = nn.Dense(c.code_dim, use_bias=False)
        self.widen = nn.Dense(c.width)
        self.decoder = [GridBlock(c.width, c.decoder_reach) for _ in range(c.layers)]
        self.decoder_norm = nn.LayerNorm()
        self.to_pixels = nn.Dense(3 * c.patch**2)

    def encode_logits(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b n v"]:
        """Posterior log-odds of each cell's code; cells row by row, like the patches of a ViT."""
        x = self.stem(patchify(2.0 * images - 1.0, self.config.patch))
        for block in self.encoder:
            x = block(x)
        logits = self.to_logits(self.encoder_norm(x))
        return logits.reshape(logits.shape[0], -1, self.config.codes)

    def encode_ids(self, images: Float[Array, "b s s 3"]) -> Int32[Array, "b n"]:
        """The likeliest code of each cell."""
        return jnp.argmax(self.encode_logits(images), axis=-1).astype(jnp.int32)

    def decode(self, codes: Float[Array, "b n v"]) -> Float[Array, "b s s 3"]:
        """Pixels from one-hot codes or from mixtures of codes; not clipped to 0..1."""
        g = self.config.grid
        x = self.widen(self.codebook(codes)).reshape(codes.shape[0], g, g, -1)
        for block in self.decoder:
            x = block(x)
        cells = self.to_pixels(self.decoder_norm(x))
        return 0.5 * (unpatchify(cells, self.config.patch) + 1.0)

    def reconstruct(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b s s 3"]:
        """Through the hard codes and back, clipped to 0..1: what evaluation measures."""
        hard = jax.nn.one_hot(self.encode_ids(images), self.config.codes)
        return jnp.clip(self.decode(hard), 0.0, 1.0)

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        key: Array,
        temperature: float | Float[Array, ""] = 1.0,
    ) -> DvaeOutput:
        """One relaxed pass for training."""
        logits = self.encode_logits(images)
        codes = relax(logits, key, temperature)
        return DvaeOutput(logits=logits, codes=codes, reconstruction=self.decode(codes))
