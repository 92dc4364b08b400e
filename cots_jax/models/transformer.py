# SPDX-License-Identifier: Apache-2.0
"""A stack of Transformer encoder blocks that both towers share.

The published options are named so that BERT, ViT, BEiT and CLIP weights fit without touching the
block: place of the norm, form of the GELU, epsilon, causal attention, layer scale, relative bias.
Parameters are stacked [layers, …]; scanning or unrolling the stack changes no name.
"""

import dataclasses
import enum
import functools
import threading
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cots_jax.models.apply import apply
from cots_jax.models.attention import Rule, fused, written_out
from cots_jax.models.outputs import Wanted, between, outputs_at, places
from cots_jax.models.products import bfloat16_operands_dot, float32_dot
from cots_jax.models.stacks import products_and_sums, scan_but_last, split_last
from cots_jax.switches import AttentionForm, Precision, Remat, Switch


class Norm(enum.StrEnum):
    """PRE normalises a branch's input (ViT, CLIP, BEiT), POST the sum after it (BERT)."""

    PRE = "pre"
    POST = "post"


class Activation(enum.StrEnum):
    """The MLP's non-linearity. BERT and ViT use the exact GELU, CLIP the quick one."""

    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    QUICK_GELU = "quick_gelu"


class Span(enum.StrEnum):
    """Which tokens a token attends to."""

    FULL = "full"
    CAUSAL = "causal"


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape and published options of one stack."""

    layers: int
    width: int
    heads: int
    mlp: int
    norm: Norm = Norm.PRE
    activation: Activation = Activation.GELU
    epsilon: float = 1e-6
    span: Span = Span.FULL
    layer_scale: float | None = None  # initial value; None: no layer scale (BEiT has one)
    relative_bias_side: int | None = None  # grid side; one table a layer (BEiT has one)
    # Of kernels and embeddings; None: 1 / sqrt(inputs), since at small widths 0.02 makes Adam's
    # steps so large beside the weights that learning stalls (own choice; BERT and ViT have 0.02).
    init_std: float | None = 0.02
    precision: Precision = Precision.FLOAT32
    scan: Switch = Switch.OFF
    remat: Remat = Remat.OFF
    attention: AttentionForm = AttentionForm.WRITTEN_OUT


def activate(name: Activation, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Applies the named activation."""
    if name is Activation.QUICK_GELU:
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.gelu(x, approximate=name is Activation.GELU_TANH)


def exactness(precision: Precision) -> jax.lax.Precision | None:
    """HIGHEST where float32 is meant: accelerators would multiply in bf16 or TF32 by default."""
    return jax.lax.Precision.HIGHEST if precision is Precision.FLOAT32 else None


float32_result_dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
DOTS = {
    Precision.FLOAT32: float32_dot,
    Precision.BFLOAT16_OPERANDS: bfloat16_operands_dot,
    Precision.BFLOAT16: jax.lax.dot_general,
}


def linear(
    features: int | tuple[int, ...],
    precision: Precision,
    *,
    axis: int | tuple[int, ...] = -1,
    use_bias: bool = True,
    init_std: float | None = 0.02,
    name: str | None = None,
    wide: bool = False,
) -> nn.DenseGeneral:
    """A dense layer under the matmul policy: operands as named, accumulation in float32.

    wide: the results are float32 under any policy, for the logits of a loss.
    """
    wide_bfloat16 = wide and precision is Precision.BFLOAT16
    return nn.DenseGeneral(
        features,
        axis=axis,
        use_bias=use_bias,
        dtype=jnp.bfloat16 if precision is Precision.BFLOAT16 else None,
        precision=exactness(precision),
        kernel_init=nn.initializers.truncated_normal(init_std)
        if init_std
        else nn.initializers.lecun_normal(),
        dot_general=float32_result_dot if wide_bfloat16 else DOTS[precision],
        name=name,
    )


def embedding_init(config: TransformerConfig) -> nn.initializers.Initializer:
    """How embedding tables and single vectors of this width start."""
    return nn.initializers.truncated_normal(config.init_std or config.width**-0.5)


def layer_norm(epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """Layer norm with float32 statistics and the published epsilon."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


def relative_index(side: int) -> Int[np.ndarray, "c c"]:
    """Row of the relative-position table for each pair of the c tokens of a grid with [CLS].

    Table rows: (2 side - 1)^2 offsets, then [CLS] to patch, patch to [CLS], [CLS] to [CLS] (BEiT).
    """
    row, column = np.divmod(np.arange(side * side), side)
    down = row[:, None] - row[None, :] + side - 1
    right = column[:, None] - column[None, :] + side - 1
    offsets = (2 * side - 1) ** 2
    index = np.full((side * side + 1,) * 2, offsets, np.int32)
    index[1:, 1:] = down * (2 * side - 1) + right
    index[1:, 0] = offsets + 1
    index[0, 0] = offsets + 2
    return index


class Attention(nn.Module):
    """Multi-head self-attention; softmax in float32."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "b 1 1 n"] | None,
        wanted: Wanted | None,
    ) -> Float[Array, "b m d"]:
        """`bias` is added to the logits: 0 where a key may be seen, very negative elsewhere."""
        config = self.config
        head = config.width // config.heads
        qkv = linear(
            (3, config.heads, head), config.precision, init_std=config.init_std, name="qkv"
        )(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        rule = Rule(exactness(config.precision), config.span is Span.CAUSAL)
        at = places(wanted, x.shape[1])
        kernel = config.attention is AttentionForm.FUSED and config.precision is Precision.BFLOAT16
        if kernel and config.relative_bias_side is None and at.shape[1] > 1:
            # Its queries are as many as its keys, and the scores of many would fill the memory.
            mixed = outputs_at(fused(q, k, v, bias, rule), wanted)
        else:
            relative = None
            if config.relative_bias_side is not None:
                relative = between(self._relative_bias(config.relative_bias_side), wanted)
            mixed = written_out(outputs_at(q, wanted), k, v, bias, relative, rule, at)
        out = linear(
            config.width, config.precision, axis=(-2, -1), init_std=config.init_std, name="out"
        )
        return out(mixed)

    def _relative_bias(self, side: int) -> Float[Array, "h c c"]:
        rows = (2 * side - 1) ** 2 + 3
        table = self.param("relative_bias", nn.initializers.zeros, (rows, self.config.heads))
        return jnp.moveaxis(table[relative_index(side)], -1, 0)


class Block(nn.Module):
    """One encoder block."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "b 1 1 n"] | None,
        wanted: Wanted | None = None,
    ) -> tuple[Float[Array, "b m d"], None]:
        """Outputs at these tokens, or at all, and None: the pair that `nn.scan` asks for."""
        config = self.config
        norms = [layer_norm(config.epsilon, name) for name in ("attention_norm", "mlp_norm")]
        branches = [lambda y: Attention(config, name="attention")(y, bias, wanted), self._mlp]
        for norm, branch, scale in zip(norms, branches, ("attention_scale", "mlp_scale")):
            mixed = self._scaled(scale, branch(norm(x) if config.norm is Norm.PRE else x))
            # After attention there are but the tokens that are wanted.
            kept = outputs_at(x, wanted) if scale == "attention_scale" else x
            x = kept + mixed if config.norm is Norm.PRE else norm(kept + mixed)
        return x, None

    def _mlp(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        config = self.config
        std = config.init_std
        hidden = linear(config.mlp, config.precision, init_std=std, name="mlp_in")(x)
        hidden = activate(config.activation, hidden)
        return linear(config.width, config.precision, init_std=std, name="mlp_out")(hidden)

    def _scaled(self, name: str, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        if self.config.layer_scale is None:
            return x
        initial = nn.initializers.constant(self.config.layer_scale)
        return x * self.param(name, initial, (self.config.width,))[None, None].astype(x.dtype)


class Transformer(nn.Module):
    """The stack. Parameters under `blocks`, each [layers, …]."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "b 1 1 n"] | None = None,
        wanted: Wanted | None = None,
    ) -> Float[Array, "b m d"]:
        """Runs all blocks; outputs at these tokens, or at all."""
        if wanted is not None and not self.is_initializing():
            return self._last_where_wanted(x, bias, wanted)
        config = self.config
        with _MAKING_CLASSES:
            stack = _stack_of_blocks(config.layers, config.scan, config.remat)
        x, _ = stack(config, name="blocks")(x, bias)
        return outputs_at(x, wanted)

    def _last_where_wanted(
        self, x: Float[Array, "b n d"], bias: Float[Array, "b 1 1 n"] | None, wanted: Wanted
    ) -> Float[Array, "b m d"]:
        """The last block is run by itself, on what is wanted of it."""
        config = self.config
        stack = self.get_variable("params", "blocks")

        def one(x: Array, params: Any) -> Array:
            return apply(Block(config, parent=None), params, x, bias)[0]

        if config.layers == 1:
            _, last = split_last(stack)
        elif config.scan is Switch.ON:
            x, last = scan_but_last(one, x, stack, _kept(config.remat))
        else:
            first, last = split_last(stack)
            if config.remat is not Remat.OFF:
                one = jax.checkpoint(one, prevent_cse=False, policy=_kept(config.remat))
            unroll = config.layers - 1
            x, _ = jax.lax.scan(lambda x, params: (one(x, params), None), x, first, unroll=unroll)

        def final(x: Array, params: Any) -> Array:
            return apply(Block(config, parent=None), params, x, bias, wanted)[0]

        if config.remat is not Remat.OFF:
            final = jax.checkpoint(final, policy=_kept(config.remat))
        return final(x, last)


# Flax makes a class of what it transforms, and changes the fields of its bases while it does. Two
# threads that trace, as at the start of a training, must not do so at once.
_MAKING_CLASSES = threading.Lock()


@functools.cache
def _stack_of_blocks(layers: int, scan: Switch, remat: Remat) -> type[nn.Module]:
    return nn.scan(
        _recomputed(remat),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=layers,
        unroll=1 if scan is Switch.ON else layers,
    )


def _recomputed(remat: Remat) -> type[nn.Module]:
    if remat is Remat.OFF:
        return Block
    return nn.remat(Block, prevent_cse=False, policy=_kept(remat))


def _kept(remat: Remat) -> Callable[..., Any] | None:
    """What is not computed again; None: nothing."""
    policies = {
        Remat.OFF: products_and_sums,
        Remat.DOTS: jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }
    return policies.get(remat)
