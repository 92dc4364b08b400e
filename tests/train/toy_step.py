# SPDX-License-Identifier: Apache-2.0
"""The COTS step around the toy model, in float64, compiled once for each way to cut the batch."""

import functools

import numpy as np
import oracles
import quick
import toy_model
from toy_optimizer import descent

from cots_jax.data.masking import TextMasking
from cots_jax.data.transforms import Augmentation
from cots_jax.objectives.momentum_filter import FilterState
from cots_jax.objectives.queue import Queue
from cots_jax.objectives.total import OBJECTIVES, Terms
from cots_jax.schema import HardwareConfig, MethodConfig
from cots_jax.switches import Negatives
from cots_jax.train.mesh import make_mesh
from cots_jax.train.state import fresh_state
from cots_jax.train.step import CotsStep, Knobs, Method

b, k, STORED, CURSOR = 8, 12, 14, 9  # two stored columns are padding
METHOD = MethodConfig(
    queue_length=k,
    negatives=Negatives.QUEUE_AND_BATCH,
    temperature=0.1,
    reference_batch=64,
    masked=toy_model.half_masked(image_every=2, text_every=2),
)


def make_step(mesh, accumulate=1, method=METHOD) -> CotsStep:
    """Plain gradient descent with momentum: a first step moves the parameters by the gradient."""
    return CotsStep(
        model=toy_model.toy_model(method.masked),
        method=method,
        masking=TextMasking(4, toy_model.WORDS, toy_model.SPECIAL),
        augmentation=Augmentation(),
        optimizer=descent(),
        mesh=mesh,
        active=frozenset(OBJECTIVES),
        paused=frozenset(OBJECTIVES),
        accumulate=accumulate,
    )


def make_state(step: CotsStep):
    """A state in the middle of a run: momentum apart from the parameters, a half-filled queue."""
    rng = np.random.default_rng(5)
    model = step.model
    params = {
        "towers": toy_model.random_towers(1),
        "heads": toy_model.random_heads(2, model),
    }
    queue = Queue(
        image=oracles.unit_rows(rng, STORED, toy_model.EMBED),
        text=oracles.unit_rows(rng, STORED, toy_model.EMBED),
        group_id=rng.integers(-1, 8, STORED).astype(np.int32),
        valid=np.arange(STORED) < 7,
        cursor=np.int32(CURSOR),
    )
    mean, deviation = np.array([0.1, 0.2]), np.array([0.3, 0.4])
    # As after very many rows: nothing is left to debias.
    seen = FilterState(np.full(2, 1e9), mean, mean**2 + deviation**2)
    method = Method(toy_model.random_towers(3), queue, seen)
    return fresh_state(params, step.optimizer, method)


def make_knobs(filter_warm=False, learning_rate=1.0, momentum=0.75, **weights) -> Knobs:
    chosen = {"instance": 1.0, "mvm": 0.5, "mlm": 0.25, "task": 2.0} | weights
    return Knobs(
        seed=np.uint32(3),
        learning_rate=np.float64(learning_rate),
        momentum=np.float64(momentum),
        weights=Terms(**{name: np.float64(value) for name, value in chosen.items()}),
        filter_warm=np.bool_(filter_warm),
    )


def only(**weights) -> dict[str, float]:
    return dict.fromkeys(OBJECTIVES, 0.0) | weights


@functools.cache
def compiled(accumulate=1):
    step = make_step(make_mesh(HardwareConfig()), accumulate)
    return quick.jit(step)
