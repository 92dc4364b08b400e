# SPDX-License-Identifier: Apache-2.0
"""All objectives on the toy model, with candidates and weights of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import quick
import toy_model

from cots_jax.data.masking import TextMasking, mask_text
from cots_jax.data.transforms import normalise_values
from cots_jax.objectives.contrastive import Rows
from cots_jax.objectives.queue import Columns
from cots_jax.objectives.total import (
    OBJECTIVES,
    Candidates,
    Terms,
    Tools,
    Views,
    denominators,
    losses,
)
from cots_jax.schema import MethodConfig

b, k = 6, 8
HALF = (0.5, 0.5, 0.5)
MASKED = toy_model.half_masked()
METHOD = MethodConfig(temperature=0.1, masked=MASKED)
ALL, TOKEN, NONE = frozenset(OBJECTIVES), frozenset({"mvm", "mlm"}), frozenset()


def views_of(method, batch):
    masked, keys = method.masked, jax.random.split(jax.random.key(0), b)
    text = mask_text(
        keys[:: masked.text_every],
        jnp.asarray(batch.text[:: masked.text_every]),
        jnp.asarray(batch.text_length[:: masked.text_every]),
        ratio=masked.text_ratio,
        masking=TextMasking(4, toy_model.WORDS, toy_model.SPECIAL),
    )
    pixels = jnp.asarray(batch.image, jnp.float32) / 255
    return Views(
        image=normalise_values(pixels, HALF, HALF),
        text=jnp.asarray(batch.text),
        text_length=jnp.asarray(batch.text_length),
        group_id=jnp.asarray(batch.group_id),
        row=jnp.arange(b),
        weight=jnp.asarray(batch.weight, jnp.float64),
        image_mask=jnp.asarray(batch.image_mask[:: masked.image_every]),
        masked_text=text,
        image_tokens=jnp.asarray(batch.image_tokens[:: masked.image_every]),
    )


def candidates():
    rng = np.random.default_rng(4)
    image, text, own_image, own_text = (
        jnp.asarray(oracles.unit_rows(rng, count, toy_model.EMBED)) for count in (k, k, b, b)
    )
    group = jnp.asarray(rng.integers(-1, b, k).astype(np.int32))
    queue = Columns(image, text, group, jnp.asarray(rng.random(k) < 0.8), jnp.full(k, -1))
    return queue, own_image, own_text


def default_batch():
    batch = toy_model.random_batch(0, b)
    return toy_model.changed(batch, weight=lambda w: w.__setitem__(1, 0))


def tools_of(method, active, paused):
    model = toy_model.toy_model(method.masked)

    def refuse(_):
        raise AssertionError("ids were made ahead of time")

    return Tools(model, method, active, paused, refuse, lambda x: x)


@functools.cache
def compiled(method, active, paused, gradient):
    tools = tools_of(method, active, paused)

    def loss(params, views, keys, queue, weights):
        counts = denominators(views, tools.model)
        found = losses(params, tools, views, Candidates(keys, (queue,)), weights, counts)
        return found.total, (found.sums, counts)

    return quick.jit(jax.value_and_grad(loss, has_aux=True) if gradient else loss)


def params_of(method):
    model = toy_model.toy_model(method.masked)
    return {"towers": toy_model.random_towers(1), "heads": toy_model.random_heads(2, model)}


def run(method=METHOD, batch=None, active=ALL, paused=ALL, gradient=True, **weights):
    """((total, (sums, denominators)), gradients), or the former alone."""
    views = views_of(method, batch or default_batch())
    queue, own_image, own_text = candidates()
    keys = Rows(own_image, own_text, views.group_id, views.row)
    chosen = dict.fromkeys(OBJECTIVES, 0.0) | (weights or dict.fromkeys(active, 1.0))
    terms = Terms(**{name: np.float64(value) for name, value in chosen.items()})
    params = params_of(method)
    if not active & {"mvm", "mlm"}:
        params["heads"] = {}
    return compiled(method, active, paused & active, gradient)(params, views, keys, queue, terms)


def value_of(method, *objectives):
    """(mean loss, denominator) of each of these objectives, computed alone."""
    _, (sums, counts) = run(method, active=frozenset(objectives), paused=NONE, gradient=False)
    found = [(getattr(sums, name), getattr(counts, name)) for name in objectives]
    return [(float(total / count), int(count)) for total, count in found]


def means_of(found):
    (_, (sums, counts)), _ = found
    return {name: float(getattr(sums, name) / getattr(counts, name)) for name in OBJECTIVES}
