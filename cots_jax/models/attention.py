# SPDX-License-Identifier: Apache-2.0
"""Attention of the towers: written out, or by a kernel that never has all scores in memory.

Written out it is exact in every precision and runs anywhere, but its [b, h, n, n] float32 scores go
to memory and back several times a block: at 384 px and with nothing computed again, half of what a
step moves there (docs/plan.md). The kernels are JAX's own for TPUs and, for pictures alone,
cuDNN's. For anything else attention is written out after all, so that one config trains here and
there. All of it is an own choice (O).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention as tpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from cots_jax.axes import ROWS

LANES = 128  # of a TPU: the kernel takes lengths that it divides
LONGEST_BLOCK = 1024  # tokens whose scores lie in a TPU's vector memory at once (own choice)

Heads = Float[Array, "b n h c"]
Queries = Float[Array, "b m h c"]
Bias = Float[Array, "b 1 1 n"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What stands between logits and weights, besides the keys' own bias."""

    exact: jax.lax.Precision | None
    causal: bool = False


def written_out(
    q: Queries,
    k: Heads,
    v: Heads,
    bias: Bias | None,
    relative: Float[Array, "#b h m n"] | None,
    rule: Rule,
    places: Int[Array, "#b m"] | None = None,
) -> Queries:
    """Softmax in float32 over logits with both biases.

    places: of the queries among the keys; None: they are the same tokens.
    """
    # Logits in the hundreds would lose their units to bf16's 8 bits.
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum(
        "bqhc,bkhc->bhqk",
        q * q.shape[-1] ** -0.5,
        k,
        precision=rule.exact,
        preferred_element_type=wide,
    )
    if bias is not None:
        logits = logits + bias.astype(logits.dtype)
    if relative is not None:
        logits = logits + relative
    if rule.causal:
        keys = jnp.arange(k.shape[1])[None]
        queries = keys if places is None else places
        seen = keys[None, None] <= queries[:, None, :, None]
        logits = jnp.where(seen, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v, precision=rule.exact)


def fused(q: Heads, k: Heads, v: Heads, bias: Bias | None, rule: Rule) -> Heads:
    """By a kernel on each device's rows and heads, if the mesh of the context divides them.

    Without a mesh, or where no kernel is for the device, written out. `bias` is 0 or very negative.
    """
    mesh = jax.sharding.get_abstract_mesh()
    divides = not mesh.empty and not (
        q.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]) or q.shape[2] % mesh.shape["tensor"]
    )
    if not divides:
        return written_out(q, k, v, bias, None, rule)
    cut = PartitionSpec(ROWS, None, "tensor", None)
    keys = PartitionSpec(ROWS, None, None, None)
    inputs = (q, k, v) if bias is None else (q, k, v, bias)
    specs = (cut, cut, cut, keys)[: len(inputs)]
    run = functools.partial(_on_device, rule=rule)
    # A kernel does not say over which axes its results vary, so that cannot be checked.
    return jax.shard_map(run, in_specs=specs, out_specs=cut, check_vma=False)(*inputs)


def _on_device(q: Heads, k: Heads, v: Heads, bias: Bias | None = None, *, rule: Rule) -> Heads:
    if jax.default_backend() == "gpu" and bias is None:  # JAX asks the card before it says yes
        return jax.nn.dot_product_attention(q, k, v, is_causal=rule.causal, implementation="cudnn")
    return jax.lax.platform_dependent(
        q,
        k,
        v,
        bias,
        tpu=functools.partial(for_tpu, causal=rule.causal),
        default=functools.partial(written_out, relative=None, rule=rule),
    )


def for_tpu(q: Heads, k: Heads, v: Heads, bias: Bias | None, *, causal: bool) -> Heads:
    """JAX's flash attention for TPUs, on whole blocks: what is missing is padded and not seen."""
    n, c = q.shape[1], q.shape[3]
    length = -(-n // LANES) * LANES

    def padded(x: Heads) -> Array:
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, length - n), (0, 0)))

    seen = jnp.ones((q.shape[0], n), jnp.int32)
    if bias is not None:
        seen = (bias[:, 0, 0] >= 0).astype(jnp.int32)
    seen = jnp.pad(seen, ((0, 0), (0, length - n)))
    segments = tpu.SegmentIds(jnp.ones_like(seen), seen)
    if bias is None and n == length:
        segments = None
    mixed = tpu.flash_attention(
        padded(q),
        padded(k),
        padded(v),
        segment_ids=segments,
        causal=causal,
        sm_scale=c**-0.5,
        block_sizes=_blocks(length),
    )
    return mixed[:, :, :n].swapaxes(1, 2)


def _blocks(length: int) -> tpu.BlockSizes:
    """As much at once as divides the length: keys and values are then read once a head."""
    sizes = range(LANES, LONGEST_BLOCK + 1, LANES)
    size = max(size for size in sizes if length % size == 0)
    names = [field.name for field in dataclasses.fields(tpu.BlockSizes) if field.name != "block_b"]
    return tpu.BlockSizes(block_b=1, **dict.fromkeys(names, size))
