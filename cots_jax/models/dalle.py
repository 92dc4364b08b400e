# SPDX-License-Identifier: Apache-2.0
"""The encoder of DALL-E's discrete VAE (Ramesh et al. 2021): BEiT's image tokenizer, and COTS' (R).

Four groups of residual blocks with a 2 x 2 maximum between them: one of 8,192 codes for each 8 x 8
pixels. Shapes are the published ones, so that OpenAI's weights, and Hugging Face's
FlavaImageCodebook, fit; see weights/dalle.py.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from cots_jax.switches import Precision

CELL = 8  # pixels a side that one code stands for
GROUPS = 4
LAPLACE = 0.1  # pixels x become (1 - 2 * 0.1) x + 0.1: the range of its logit-Laplace likelihood


@dataclasses.dataclass(frozen=True)
class DalleConfig:
    """Shape of the encoder; the defaults are the published one at a 384 px tower's grid."""

    image_size: int = 192  # pixels a side
    codes: int = 8192  # v
    hidden: int = 256  # channels of the first group; each later one has twice as many
    blocks: int = 2  # a group
    precision: Precision = Precision.FLOAT32

    @property
    def grid(self) -> int:
        """Cells a side; n = grid ** 2 codes a picture."""
        return self.image_size // CELL


class Encoder(nn.Module):
    """Pictures in 0..1 -> log-odds of each cell's code, cells row by row."""

    config: DalleConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b n v"]:
        c = self.config
        x = (1 - 2 * LAPLACE) * images + LAPLACE
        x = self._conv(x, c.hidden, 7, "input")
        for group in range(1, GROUPS + 1):
            for block in range(1, c.blocks + 1):
                x = self._block(x, c.hidden * 2 ** (group - 1), f"group_{group}_block_{block}")
            if group < GROUPS:
                x = nn.max_pool(x, (2, 2), (2, 2))
        logits = self._conv(jax.nn.relu(x), c.codes, 1, "output")
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        return logits.reshape(logits.shape[0], -1, c.codes).astype(wide)

    def _block(self, x: Array, channels: int, name: str) -> Array:
        """Identity, or a pointwise layer where the width changes, plus a small residual."""
        same = x.shape[-1] == channels
        straight = x if same else self._conv(x, channels, 1, f"{name}_straight")
        for number, width in enumerate((3, 3, 3, 1), 1):
            out = channels if number == 4 else channels // 4
            x = self._conv(jax.nn.relu(x), out, width, f"{name}_conv_{number}")
        gain = 1 / (GROUPS * self.config.blocks) ** 2
        return straight + gain * x

    def _conv(self, x: Array, channels: int, width: int, name: str) -> Array:
        # A CPU has no fast bf16 convolution: there, and for float32, the operands stay as they are.
        narrow = self.config.precision is Precision.BFLOAT16
        layer = nn.Conv(
            channels,
            (width, width),
            dtype=jnp.bfloat16 if narrow else None,
            precision=None if narrow else jax.lax.Precision.HIGHEST,
            name=name,
        )
        return layer(x)


def code_ids(logits: Float[Array, "b n v"]) -> Int32[Array, "b n"]:
    """The likeliest code of each cell."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
