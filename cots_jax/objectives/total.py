# SPDX-License-Identifier: Apache-2.0
"""All objectives of one piece of a batch, summed under their weights of the step.

`L = w_instance L_instance + w_mvm L_mvm + w_mlm L_mlm + w_task L_task` (the sum with weights 1: R;
a schedule for each: O). Denominators are those of the whole batch, so that pieces add up to it.
Two parts: the token level reads a piece of the batch by itself; the instance and task levels
compare features, with momentum keys piece by piece, with the batch's own for all rows at once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cots_jax.data.masking import MaskedText, masked_positions
from cots_jax.models.two_stream import Params, TwoStream
from cots_jax.models.vision import Encoded
from cots_jax.objectives.alignment import alignment_loss
from cots_jax.objectives.contrastive import Rows, info_nce, reduce_rows
from cots_jax.objectives.masked import masked_loss
from cots_jax.objectives.paused import Loss, loss_while
from cots_jax.objectives.queue import Columns
from cots_jax.objectives.sigmoid import NAME as SIGMOID_BIAS
from cots_jax.objectives.sigmoid import sigmoid_loss
from cots_jax.objectives.soft_targets import soft_target_loss
from cots_jax.objectives.sums import weighted_sum
from cots_jax.objectives.temperature import NAME as TEMPERATURE
from cots_jax.objectives.temperature import temperature_of
from cots_jax.schema import MethodConfig
from cots_jax.switches import Condition, Contrast, Forward, Gradient


@flax.struct.dataclass
class Terms:
    """One number for each objective: weights, losses, denominators or shares."""

    instance: Any
    mvm: Any
    mlm: Any
    task: Any

    def named(self) -> dict[str, Any]:
        """By the names that logs use."""
        return {name: getattr(self, name) for name in OBJECTIVES}


OBJECTIVES = tuple(field.name for field in dataclasses.fields(Terms))


@flax.struct.dataclass
class Views:
    """What the losses see of b pairs: towers' inputs, masked inputs, targets and weights."""

    image: Float[Array, "b t s s 3"]
    text: Int[Array, "b l"]
    text_length: Int[Array, "b"]
    group_id: Int[Array, "b"]
    row: Int[Array, "b"]  # place in the global batch
    weight: Float[Array, "b"]  # 0: padded or dropped by the filter
    image_mask: Bool[Array, "r n"]  # of the rows of the masked image pass
    masked_text: MaskedText  # of the rows of the masked text pass
    image_tokens: Int[Array, "r n"] | None = None  # made ahead of time


@dataclasses.dataclass(frozen=True)
class Tools:
    """What the losses need besides arrays: the model, and two functions given by the step."""

    model: TwoStream
    method: MethodConfig
    active: frozenset[str]  # objectives whose schedule is ever above 0; the others cost nothing
    paused: frozenset[str]  # off at some steps by their schedules, and next to free then
    tokenize: Callable[[Float[Array, "r t s s 3"]], Int[Array, "r n"]]  # views -> code ids
    gather: Callable[[Float[Array, "b e"]], Float[Array, "b e"]]  # the same rows on every device
    spread: Callable[[Columns], Columns] = lambda columns: columns  # columns cut over the devices
    soft_targets: bool = False  # whether their share is ever above 0


@flax.struct.dataclass
class Losses:
    """The weighted total and the sum of each objective (before its weight)."""

    total: Float[Array, ""]
    sums: Terms


@flax.struct.dataclass
class Candidates:
    """What features are compared with: momentum keys of the same rows, and pieces of columns."""

    keys: Rows
    pieces: tuple[Columns, ...]


@flax.struct.dataclass
class TokenPass:
    """The features of some pairs, and the token level's losses on them."""

    rows: Rows
    losses: Losses


def losses(
    params: Params,
    tools: Tools,
    views: Views,
    candidates: Candidates | None,
    weights: Terms,
    denominators: Terms,
    soft_share: Any = 0.0,
) -> Losses:
    """Losses of these pairs; an objective whose weight is 0 at this step is not computed.

    candidates: None where `tools.method.contrast` compares the pairs among themselves: then they
    must be all of the batch. soft_share: of the momentum rows in the instance level's target.
    """
    passed = token_losses(params, tools, views, weights, denominators)
    compared = feature_losses(
        params["heads"],
        tools,
        passed.rows,
        views.weight,
        candidates,
        weights,
        denominators,
        soft_share,
    )
    return jax.tree.map(jnp.add, passed.losses, compared)


def token_losses(
    params: Params, tools: Tools, views: Views, weights: Terms, denominators: Terms
) -> TokenPass:
    """Encodes some pairs of the batch; the masked objectives on them."""
    towers, heads, model = params["towers"], params["heads"], tools.model
    inputs = _inputs(tools, views, weights)
    image = model.encode_image(towers, views.image, inputs.image_mask, inputs.patches)
    text = model.encode_text(towers, inputs.text, views.text_length, inputs.words)
    rows = Rows(tools.gather(image.joint), tools.gather(text.joint), views.group_id, views.row)

    def masked(tower: str, head: str, loss: Loss, own: Encoded, other: Encoded) -> _Wanted:
        shared = own.tokens if model.masked.forward is Forward.SHARED else None
        learned = _only(towers, tower), _only(heads, head)
        return _Wanted(
            functools.partial(loss, tools, views), *learned, shared, partner(model, other)
        )

    wanted = {
        "mvm": masked("image", "mvm", _mvm, image, text),
        "mlm": masked("text", "mlm", _mlm, text, image),
    }
    zero = jnp.zeros((), rows.image.dtype)
    return TokenPass(rows, _weighted(wanted, tools, weights, denominators, zero))


def feature_losses(
    heads: Params,
    tools: Tools,
    rows: Rows,
    weight: Float[Array, "b"],
    candidates: Candidates | None,
    weights: Terms,
    denominators: Terms,
    soft_share: Any = 0.0,
) -> Losses:
    """The instance and the task level of the features of these pairs."""

    def compared(level: Callable[..., Float[Array, ""]]) -> _Wanted:
        def loss(image: Array, text: Array, numbers: Params) -> Float[Array, ""]:
            features = dataclasses.replace(rows, image=image, text=text)
            against = candidates or _each_other(features, tools, weight)
            return level(features, against, numbers)

        return _Wanted(loss, rows.image, rows.text, _only(heads, TEMPERATURE, SIGMOID_BIAS))

    def instance(features: Rows, against: Candidates, numbers: Params) -> Float[Array, ""]:
        return _instance(numbers, features, against, tools, weight, soft_share)

    def task(features: Rows, against: Candidates, numbers: Params) -> Float[Array, ""]:
        return _task(numbers, features, against, tools.method, weight)

    wanted = {"instance": compared(instance), "task": compared(task)}
    zero = jnp.zeros((), rows.image.dtype)
    return _weighted(wanted, tools, weights, denominators, zero)


def _each_other(rows: Rows, tools: Tools, weight: Float[Array, "b"]) -> Candidates:
    """The pairs themselves as what they are compared with."""
    pairs = Columns(rows.image, rows.text, rows.group_id, weight > 0, rows.row)
    return Candidates(rows, (tools.spread(pairs),))


def _only(params: Params, *names: str) -> Params:
    """Those of these parameters that there are."""
    return {name: params[name] for name in names if name in params}


class _Wanted:
    """The sum of an objective, and all that is differentiated in it."""

    def __init__(self, loss: Loss, *inputs: Any) -> None:
        self._loss, self._inputs = loss, inputs

    def always(self) -> Float[Array, ""]:
        return self._loss(*self._inputs)

    def unless_off(self, weight: Any) -> Float[Array, ""]:
        """Hardly costs anything where the weight is 0."""
        return loss_while(jnp.asarray(weight) > 0, self._loss, *self._inputs)


def _weighted(
    wanted: Mapping[str, _Wanted],
    tools: Tools,
    weights: Terms,
    denominators: Terms,
    zero: Float[Array, ""],
) -> Losses:
    """Sums of the objectives that are on; the others are 0."""

    def sum_of(name: str) -> Float[Array, ""]:
        if name not in tools.active or name not in wanted:
            return zero
        if name not in tools.paused:
            return wanted[name].always()
        return wanted[name].unless_off(getattr(weights, name))

    terms = Terms(**{name: sum_of(name) for name in OBJECTIVES})
    shares = jax.tree.map(
        lambda weight, total, count: weight * total / jnp.where(count > 0, count, 1),
        weights,
        terms,
        denominators,
    )
    return Losses(sum(shares.named().values(), start=zero), terms)


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """What the towers' main pass sees: whole views, or with a shared forward some masked ones."""

    image_mask: Bool[Array, "b n"] | None
    text: Int[Array, "b l"]
    patches: Int[Array, "b m"] | None = None  # whose outputs are wanted
    words: Int[Array, "b w"] | None = None


def _inputs(tools: Tools, views: Views, weights: Terms) -> _Inputs:
    """A shared forward hides what an objective predicts while that objective has a weight."""
    text, masked, inputs = views.text, tools.model.masked, _Inputs(None, views.text)
    if masked.forward is Forward.SHARED:
        if "mvm" in tools.active:
            every, on = masked.image_every, weights.mvm > 0
            mask = jnp.repeat(views.image_mask, every, axis=0) & _hidden_rows(text, every, on)
            patches = jnp.repeat(hidden_patches(tools.model, views.image_mask), every, axis=0)
            inputs = dataclasses.replace(inputs, image_mask=mask, patches=patches)
        if "mlm" in tools.active:
            every, on = masked.text_every, weights.mlm > 0
            hidden = jnp.repeat(views.masked_text.text, every, axis=0)
            text = jnp.where(_hidden_rows(text, every, on), hidden, text)
            words = jnp.repeat(views.masked_text.positions, every, axis=0)
            inputs = dataclasses.replace(inputs, text=text, words=words)
    return inputs


def hidden_patches(model: TwoStream, mask: Bool[Array, "r n"]) -> Int[Array, "r m"]:
    """Where the masked patches are."""
    positions = masked_positions(mask, masked_patches(model))
    # A padded row hides no patch; reading beyond the last one would give NaN gradients.
    return jnp.minimum(positions, mask.shape[1] - 1)


def _hidden_rows(text: Int[Array, "b l"], every: int, on: Any) -> Bool[Array, "b 1"]:
    """Every so many-th row of the batch, or none."""
    return ((jnp.arange(len(text)) % every == 0) & on)[:, None]


def _instance(
    numbers: Params,
    rows: Rows,
    candidates: Candidates,
    tools: Tools,
    weight: Array,
    soft_share: Any,
) -> Float[Array, ""]:
    method, keys, pieces = tools.method, candidates.keys, candidates.pieces
    rule, chunk = method.same_group, method.column_chunk
    temperature = temperature_of(numbers, method)
    if method.contrast is Contrast.SIGMOID:
        found = sigmoid_loss(rows, pieces[0], temperature, numbers[SIGMOID_BIAS], rule)
        return weighted_sum(found, weight).total
    reduced = reduce_rows(rows, keys, pieces, temperature, rule, chunk)
    found = info_nce(rows, keys, reduced, temperature, rule)
    if tools.soft_targets:
        soft = soft_target_loss(rows, keys, pieces, temperature, rule, chunk)
        found = (1 - soft_share) * found + soft_share * soft
    return weighted_sum(found, weight).total


def _task(
    numbers: Params, rows: Rows, candidates: Candidates, method: MethodConfig, weight: Array
) -> Float[Array, ""]:
    kl = alignment_loss(
        rows,
        candidates.keys,
        candidates.pieces,
        method.alignment,
        temperature_of(numbers, method),
        method.same_group,
        method.column_chunk,
    )
    return weighted_sum(kl, weight).total


def _mvm(
    tools: Tools,
    views: Views,
    towers: Params,
    heads: Params,
    shared: Float[Array, "b m d"] | None,
    text: Float[Array, "b p"],
) -> Float[Array, ""]:
    """shared: outputs of the main pass, if they are the masked ones. text: the partner."""
    model, every = tools.model, tools.model.masked.image_every
    view = views.image[::every]
    ids = views.image_tokens if views.image_tokens is not None else tools.tokenize(view)
    positions = hidden_patches(model, views.image_mask)
    if shared is not None:
        hidden = shared[::every]
    else:
        hidden = model.encode_image(towers, view, views.image_mask, positions).tokens
    logits = model.predict_codes(heads, hidden, text[::every])
    targets = jnp.take_along_axis(ids, positions, axis=1)
    weight = jnp.broadcast_to(views.weight[::every, None], targets.shape)
    return masked_loss(logits, targets, weight).total


def _mlm(
    tools: Tools,
    views: Views,
    towers: Params,
    heads: Params,
    shared: Float[Array, "b m d"] | None,
    image: Float[Array, "b p"],
) -> Float[Array, ""]:
    """shared: outputs of the main pass, if they are the masked ones. image: the partner."""
    model, masked = tools.model, views.masked_text
    every = model.masked.text_every
    if shared is not None:
        hidden = shared[::every]
    else:
        length = views.text_length[::every]
        hidden = model.encode_text(towers, masked.text, length, masked.positions).tokens
    logits = model.predict_words(heads, towers, hidden, image[::every])
    weight = masked.weight * views.weight[::every, None]
    return masked_loss(logits, masked.targets, weight).total


def partner(model: TwoStream, encoded: Encoded) -> Float[Array, "b p"]:
    """The other modality's global feature that enters a masked prediction."""
    feature = encoded.joint if model.masked.condition is Condition.JOINT else encoded.cls
    stop = model.masked.gradient is Gradient.STOP
    return jax.lax.stop_gradient(feature) if stop else feature


def masked_patches(model: TwoStream) -> int:
    """m of the masked image pass: exactly round(ratio * n) patches a picture."""
    return round(model.masked.image_ratio * model.config.vision.tokens)


def denominators(views: Views, model: TwoStream) -> Terms:
    """What each objective's sum over these rows is divided by: pairs, or masked tokens."""
    pairs = jnp.sum(views.weight)
    images = views.weight[:: model.masked.image_every]
    words = views.masked_text.weight * views.weight[:: model.masked.text_every, None]
    return Terms(
        instance=pairs,
        mvm=jnp.sum(images) * masked_patches(model),
        mlm=jnp.sum(words),
        task=pairs,
    )
