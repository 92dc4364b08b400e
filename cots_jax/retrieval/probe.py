# SPDX-License-Identifier: Apache-2.0
"""The linear probe: multinomial logistic regression on frozen image features.

minimise  mean over pictures of cross-entropy(x W' + b, label)  +  strength / 2 * |W|^2

with x the unit features of retrieval, centred and divided by one number so that their entries have
variance 1 in the mean over the training pictures: contrastive features lie in a narrow cone, and
what a strength means would hang on how narrow it is. The search is full-batch L-BFGS, strongest
penalty first, each start being the optimum before. The strength is the one of a fixed grid that is
best on a tenth of the training pictures, which the probe then learns from too. All of it is own
choice, after Radford et al., 2021, appendix A.3, who sweep the strength on held-out training data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, UInt64

from cots_jax.errors import UserError
from cots_jax.retrieval.answers import Answers, first_answers
from cots_jax.retrieval.metrics import recall_at

STRENGTHS = tuple(10.0**-power for power in range(7))
HELD_OUT = 0.1
MOST_STEPS = 1000
TOLERANCE = 1e-4  # of the gradient's largest entry where all weights are 0: smaller is converged
CHUNK = 4096  # pictures whose logits are held at a time


@dataclass(frozen=True)
class Fitted:
    """weights: [c, e + 1], the bias last. gradient: its largest entry where the search ended."""

    weights: Float32[np.ndarray, "c f"]
    loss: float
    gradient: float
    steps: int


@dataclass(frozen=True)
class StrengthTried:
    """What a strength gave on the held-out tenth, in percent."""

    strength: float
    top1: float


@dataclass(frozen=True)
class Probe:
    """A fitted classifier and how its strength was chosen. weights: for features as they are."""

    weights: Float32[np.ndarray, "c f"]
    fitted: Fitted
    strength: float
    tried: tuple[StrengthTried, ...]
    held_out: int  # pictures by which it was chosen


def held_out_tenth(digest: UInt64[np.ndarray, "p"]) -> Bool[np.ndarray, "p"]:
    """The tenth of the pictures (one at least) with the lowest sha256: copies stay together, and
    which they are hangs on nothing but the pictures."""
    count = max(1, round(HELD_OUT * len(digest)))
    return digest <= np.sort(digest)[count - 1]


def fit_probe(
    features: Float32[np.ndarray, "p e"],
    label: Int[np.ndarray, "p"],
    held_out: Bool[np.ndarray, "p"],
    classes: int,
) -> Probe:
    """Chooses the strength on the held-out pictures, the strongest of equals, and fits it on all.

    Raises UserError where either part is empty.
    """
    if held_out.all() or not held_out.any():
        raise UserError(
            f"--probe has {len(label):,} pictures, {int(held_out.sum()):,} of them in the tenth "
            "that chooses the strength: give it some dozens of different ones"
        )
    mean = features.mean(axis=0, dtype=np.float64)
    scale = max(float(np.sqrt(np.mean((features - mean) ** 2))), np.finfo(np.float32).tiny)
    scaled = ((features - mean) / scale).astype(np.float32)
    path = fit_path(scaled, label, ~held_out, classes, STRENGTHS)
    tried = []
    for strength, fitted in zip(STRENGTHS, path, strict=True):
        found = linear_answers(fitted.weights, scaled[held_out], label[held_out])
        tried.append(StrengthTried(strength, recall_at(found.rank, 1)))
    everything = np.ones(len(label), bool)
    best = max(range(len(tried)), key=lambda at: (tried[at].top1, tried[at].strength))
    whole = fit_path(scaled, label, everything, classes, STRENGTHS[: best + 1])[-1]
    wide = whole.weights[:, :-1].astype(np.float64) / scale
    bias = whole.weights[:, -1] - wide @ mean
    weights = np.concatenate([wide, bias[:, None]], axis=1).astype(np.float32)
    return Probe(weights, whole, tried[best].strength, tuple(tried), int(held_out.sum()))


def linear_answers(
    weights: Float32[np.ndarray, "c f"],
    features: Float32[np.ndarray, "p e"],
    label: Int[np.ndarray, "p"],
) -> Answers:
    """A linear classifier is a dot product with one more column: ranks are those of retrieval."""
    one = np.ones((len(features), 1), np.float32)
    rows = np.concatenate([features, one], axis=1)
    return first_answers(rows, weights, label, np.arange(len(weights)))


def fit_path(
    features: Float32[np.ndarray, "p e"],
    label: Int[np.ndarray, "p"],
    taught: Bool[np.ndarray, "p"],
    classes: int,
    strengths: Sequence[float],
) -> list[Fitted]:
    """The optimum for each strength, each search starting where the one before has ended.

    taught: the pictures to learn from; the others weigh nothing, so that one program serves both
    the search for a strength and the fit to all.
    """
    chunks = _chunks(features, label, taught)
    weights = jnp.zeros((classes, features.shape[1] + 1), jnp.float32)
    path = []
    for strength in strengths:
        found = _minimise(weights, chunks, jnp.float32(strength))
        weights = found.weights
        path.append(
            Fitted(np.asarray(weights), float(found.loss), float(found.gradient), int(found.steps))
        )
    return path


@flax.struct.dataclass
class _Chunks:
    """The pictures in chunks of one shape; weights sum up to 1, padding has 0."""

    features: Float32[Array, "k r e"]
    label: Int32[Array, "k r"]
    weight: Float32[Array, "k r"]


def _chunks(
    features: Float32[np.ndarray, "p e"],
    label: Int[np.ndarray, "p"],
    taught: Bool[np.ndarray, "p"],
) -> _Chunks:
    pictures = len(label)
    rows = min(CHUNK, pictures)
    count = -(-pictures // rows)
    padding = count * rows - pictures
    weight = (taught / taught.sum()).astype(np.float32)
    return _Chunks(
        jnp.asarray(np.pad(features, ((0, padding), (0, 0))).reshape(count, rows, -1)),
        jnp.asarray(np.pad(label.astype(np.int32), (0, padding)).reshape(count, rows)),
        jnp.asarray(np.pad(weight, (0, padding)).reshape(count, rows)),
    )


def _objective(
    weights: Float[Array, "c f"], chunks: _Chunks, strength: Float[Array, ""]
) -> Float[Array, ""]:
    @jax.checkpoint  # logits are made again for the gradient: p x c of them would not fit
    def add(total: Float[Array, ""], chunk: _Chunks) -> tuple[Float[Array, ""], None]:
        product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
        logits = product("re,ce->rc", chunk.features, weights[:, :-1]) + weights[None, :, -1]
        lost = optax.softmax_cross_entropy_with_integer_labels(logits, chunk.label)
        return total + jnp.sum(chunk.weight * lost), None

    total, _ = lax.scan(add, jnp.float32(0), chunks)
    return total + strength / 2 * jnp.sum(weights[:, :-1] ** 2)


@flax.struct.dataclass
class _Search:
    weights: Float32[Array, "c f"]
    state: optax.OptState
    loss: Float32[Array, ""]
    gradient: Float32[Array, ""]
    steps: Int32[Array, ""]
    idle: Int32[Array, ""]  # steps in a row that gained nothing that float32 can tell


@jax.jit
def _minimise(
    weights: Float32[Array, "c f"], chunks: _Chunks, strength: Float32[Array, ""]
) -> _Search:
    objective = partial(_objective, chunks=chunks, strength=strength)
    solver = optax.lbfgs()
    value_and_gradient = jax.value_and_grad(objective)

    # by itself an entry says nothing: it gets smaller the more classes there are
    enough = TOLERANCE * jnp.abs(jax.grad(objective)(jnp.zeros_like(weights))).max()

    def step(at: _Search) -> _Search:
        value, gradient = value_and_gradient(at.weights)
        updates, state = solver.update(
            gradient, at.state, at.weights, value=value, grad=gradient, value_fn=objective
        )
        gained = at.loss - value > 1e-7 * jnp.abs(value)
        idle = jnp.where(gained, 0, at.idle + 1)
        moved = jax.tree.map(jnp.add, at.weights, updates)
        return _Search(moved, state, value, jnp.abs(gradient).max(), at.steps + 1, idle)

    def unfinished(at: _Search) -> Bool[Array, ""]:
        return (at.gradient > enough) & (at.steps < MOST_STEPS) & (at.idle < 5)

    nothing = jnp.float32(jnp.inf)
    start = _Search(weights, solver.init(weights), nothing, nothing, jnp.int32(0), jnp.int32(0))
    return lax.while_loop(unfinished, step, start)
