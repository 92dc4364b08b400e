# SPDX-License-Identifier: Apache-2.0
"""What the discrete VAE is trained on, and the bounds that its codes must keep to be of use."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from cots_jax.errors import UserError

least_perplexity = 0.2  # of v
most_dead = 0.5  # of v


@flax.struct.dataclass
class Elbo:
    """Sums over the counted pictures, with their denominator (pictures, by weight).

    `error` in squared units of 0..1 summed over pixels and channels, the rest in nats.
    """

    total: Float[Array, ""]
    error: Float[Array, ""]
    divergence: Float[Array, ""]
    imbalance: Float[Array, ""]
    denominator: Float[Array, ""]


@flax.struct.dataclass
class Usage:
    """How the codebook is used; entropy in nats, the rest derived from the same histogram."""

    perplexity: Float[Array, ""]  # exp(entropy): codes in even use that would be as varied
    dead_fraction: Float[Array, ""]  # share of the v codes that never occur
    entropy: Float[Array, ""]
    commonest: Float[Array, ""]  # share of the commonest code


def elbo(
    images: Float[Array, "b s s 3"],
    reconstruction: Float[Array, "b s s 3"],
    logits: Float[Array, "b n v"],
    weight: Float[Array, "b"],
    kl_weight: float | Float[Array, ""],
    usage_weight: float | Float[Array, ""],
    pixel_deviation: float = 0.1,
) -> Elbo:
    """The negative evidence lower bound of a discrete VAE with a uniform prior, in nats.

    `total = error / (2 pixel_deviation^2) + kl_weight * divergence + usage_weight * imbalance`,
    each a sum over the pictures. `error` is the squared error (a Gaussian likelihood of known
    deviation: own choice, where DALL-E has a logit-Laplace). `divergence` is the KL of every
    cell's posterior from the uniform prior, summed over the n cells. That KL is the mutual
    information of cell and code plus the KL of the *mean* posterior from the prior (Hoffman and
    Johnson 2016); `imbalance` is the second part again, over the cells of the batch and times n.
    Its own weight (own choice) is what keeps the codebook in use without blurring each posterior.
    """
    log_v = jnp.log(float(logits.shape[-1]))
    log_q = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    q = jnp.exp(log_q)
    pictures = jnp.sum(weight)
    error = jnp.sum(weight * jnp.sum((images - reconstruction) ** 2, axis=(1, 2, 3)))
    divergence = jnp.sum(weight * jnp.sum(q * log_q, axis=(1, 2)))
    divergence = divergence + pictures * logits.shape[1] * log_v
    mean = jnp.einsum("bnv,b->v", q, weight) / jnp.maximum(pictures * logits.shape[1], 1.0)
    imbalance = pictures * logits.shape[1] * (log_v - entropy(mean))
    total = error / (2.0 * pixel_deviation**2) + kl_weight * divergence + usage_weight * imbalance
    return Elbo(total, error, divergence, imbalance, pictures)


def entropy(p: Float[Array, "v"]) -> Float[Array, ""]:
    """Entropy of a distribution in nats, with 0 log 0 = 0."""
    return -jnp.sum(jax.scipy.special.xlogy(p, p))


def code_counts(ids: Int[Array, "b n"], v: int) -> Int32[Array, "v"]:
    """Occurrences of each code; counts of several batches may be added."""
    return jnp.zeros(v, jnp.int32).at[ids.ravel()].add(1)


def usage_of_counts(counts: Int[Array, "v"]) -> Usage:
    """Perplexity and dead codes of a histogram."""
    p = counts / jnp.maximum(jnp.sum(counts), 1)
    h = entropy(p)
    return Usage(jnp.exp(h), jnp.mean(counts == 0), h, jnp.max(p))


def codebook_usage(ids: Int[Array, "b n"], v: int) -> Usage:
    """Perplexity and dead codes of hard ids."""
    return usage_of_counts(code_counts(ids, v))


def squared_error(
    images: Float[Array, "b s s 3"], others: Float[Array, "b s s 3"]
) -> Float[Array, "b"]:
    """Mean squared difference of each picture, over pixels and channels in 0..1."""
    return jnp.mean((images - others) ** 2, axis=(1, 2, 3))


def shrink_and_enlarge(images: Float[Array, "b s s 3"], grid: int) -> Float[Array, "b s s 3"]:
    """The bar for a tokenizer: each picture averaged to grid x grid colours and enlarged again.

    Of nearest, bilinear and bicubic enlargement each picture takes the one that is nearest to it,
    so that the bar is the highest of the three (own choice). Clipped to 0..1.
    """
    b, s, _, _ = images.shape
    if s % grid:
        raise UserError(f"pictures of {s} pixels a side do not divide into a grid of {grid}")
    small = images.reshape(b, grid, s // grid, grid, s // grid, 3).mean(axis=(2, 4))
    enlarged = jnp.stack(
        [
            jnp.clip(jax.image.resize(small, images.shape, method), 0.0, 1.0)
            for method in ("nearest", "bilinear", "bicubic")
        ]
    )
    best = jnp.argmin(jax.vmap(squared_error, (None, 0))(images, enlarged), axis=0)
    return jnp.take_along_axis(enlarged, best[None, :, None, None, None], axis=0)[0]


def check_tokenizer(
    perplexity: float, dead: float, error: float, baseline_error: float, v: int
) -> None:
    """Refuse a tokenizer whose codes are of no use as targets; UserError names every failed bound.

    `dead` is a fraction of v; `error` and `baseline_error` are mean squared errors of the same
    held-out pictures, through the hard codes and through `shrink_and_enlarge`.
    """
    failed = []
    if not perplexity >= least_perplexity * v:
        failed.append(
            f"codebook perplexity {perplexity:.1f} is below {least_perplexity:.0%} of the {v} "
            f"codes ({least_perplexity * v:.1f}): raise usage_weight or take fewer codes"
        )
    if not dead <= most_dead:
        failed.append(
            f"{dead:.0%} of the {v} codes never occur (at most {most_dead:.0%}): "
            "raise usage_weight, train longer or take fewer codes"
        )
    if not error < baseline_error:
        failed.append(
            f"reconstruction error {error:.5f} is not below {baseline_error:.5f}, that of the "
            "pictures shrunk to the code grid and enlarged again: train longer, take more codes "
            "or lower kl_weight"
        )
    if failed:
        raise UserError("the tokenizer is not fit for use: " + "; ".join(failed))
