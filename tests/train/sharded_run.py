# SPDX-License-Identifier: Apache-2.0
"""Two steps of a small real model on 8 fake devices: `sharded_run.py OUT.npz` (test_sharding).
And attention that each device computes for its own rows and heads.

Arms: one device, data=8, data=4 x fsdp=2 with the batch in two pieces, all in float64, and data=8
in float32 with a queue eight times as long, the rest of which is not valid. All of them augment,
make their image tokens online and align with the momentum rows, as the recipes do. Two more compare
the batch with itself, the second of them in pieces.
"""

import dataclasses
import json
import re
import sys

import jax
import numpy as np
import oracles
import quick
import toy_model
from jax.sharding import AxisType
from toy_optimizer import descent

from cots_jax.data.masking import TextMasking
from cots_jax.data.transforms import Augmentation
from cots_jax.models.attention import Rule, fused, written_out
from cots_jax.models.dvae import Dvae, DvaeConfig
from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.objectives.momentum_filter import FilterState
from cots_jax.objectives.queue import Queue
from cots_jax.objectives.total import OBJECTIVES, Terms
from cots_jax.schema import (
    AlignmentConfig,
    FilterConfig,
    HardwareConfig,
    MaskedConfig,
    MethodConfig,
)
from cots_jax.switches import Contrast, Negatives, Switch, Teacher
from cots_jax.train.mesh import by_rows, state_shardings, whole
from cots_jax.train.state import fresh_state
from cots_jax.train.step import CotsStep, Knobs, Method

b, SHORT, LONG, CODES, WORDS = 16, 1024, 8192, 16, 24
MASKED = MaskedConfig(image_ratio=0.5, text_ratio=0.5)
# Random by row, and yet without rounding in its float32, whatever the compiler makes of it.
AUGMENTATION = Augmentation(flip_probability=0.5, brightness=0.3, word_dropout=0.2)
DVAE = DvaeConfig(image_size=16, patch=8, codes=CODES, code_dim=8, width=16)
SIZE = model_size("tiny-16", HardwareConfig(scan=Switch.ON), WORDS)
ARMS = {
    "one": {"shape": (1, 1, 1)},
    "data": {"shape": (8, 1, 1)},
    "fsdp": {"shape": (4, 2, 1), "accumulate": 2},
    "long": {"shape": (8, 1, 1), "length": LONG, "dtype": np.float32},
    "batch_one": {"shape": (1, 1, 1), "contrast": Contrast.BATCH},
    "batch_fsdp": {"shape": (4, 2, 1), "accumulate": 2, "contrast": Contrast.BATCH},
}


def make_step(mesh, length, accumulate, contrast):
    teacher = Teacher.MOMENTUM if contrast is Contrast.MOMENTUM else Teacher.STOPPED
    method = MethodConfig(
        contrast=contrast,
        queue_length=length,
        negatives=Negatives.QUEUE_AND_BATCH,
        temperature=0.1,
        reference_batch=64,
        masked=MASKED,
        alignment=AlignmentConfig(teacher=teacher),
        filter=FilterConfig(kappa=1.0),
    )
    return CotsStep(
        model=TwoStream(SIZE, MASKED, CODES, frozenset({"mvm", "mlm"})),
        method=method,
        masking=TextMasking(4, WORDS, toy_model.SPECIAL),
        augmentation=AUGMENTATION,
        optimizer=descent(),
        mesh=mesh,
        active=frozenset(OBJECTIVES),
        paused=frozenset(),
        image_tokenizer=DVAE,
        accumulate=accumulate,
    )


def draw(make, seed, dtype):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(dtype), shapes)


def make_frozen(dtype):
    def make(key):
        pixels = np.zeros((1, 16, 16, 3), np.float32)
        return Dvae(DVAE).init(key, pixels, method=Dvae.encode_ids)["params"]

    return draw(make, 4, dtype)


def make_state(step, length, dtype):
    model, rng = step.model, np.random.default_rng(3)
    towers, teacher = (draw(model.init_towers, seed, dtype) for seed in (0, 2))
    params = {"towers": towers, "heads": draw(model.init_heads, 1, dtype)}
    if step.method.contrast is not Contrast.MOMENTUM:
        return fresh_state(params, step.optimizer, {})
    e = SIZE.vision.embed_dim
    queue = Queue(
        *(np.zeros((length, e), dtype) for _ in range(2)),
        group_id=np.full(length, -1, np.int32),
        valid=np.zeros(length, bool),
        cursor=np.int32(500),
    )
    for keys in (queue.image, queue.text):
        keys[:SHORT] = oracles.unit_rows(rng, SHORT, e)
    queue.group_id[:SHORT] = rng.integers(-1, b, SHORT)
    queue.valid[:SHORT] = rng.random(SHORT) < 0.7
    # Unseen statistics: each batch is judged by its own mean, and some rows go.
    seen = FilterState(*(np.zeros(2, dtype) for _ in range(3)))
    return fresh_state(params, step.optimizer, Method(teacher, queue, seen))


def make_batch(seed):
    rng = np.random.default_rng(seed)
    batch = toy_model.random_batch(seed, b)
    return dataclasses.replace(
        batch,
        image=rng.integers(0, 256, (b, 1, 16, 16, 3)).astype(np.uint8),
        image_mask=rng.permuted(np.tile([True, True, False, False], (b, 1)), axis=1),
        image_tokens=None,
        weight=(np.arange(b) != 5).astype(np.float32),
    )


def collectives(text):
    """Dimensions of all results of collectives in a compiled program."""
    found = []
    names = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for result in re.findall(rf"= (.*?) (?:{names})(?:-start)?\(", text):
        for dims in re.findall(r"\w+\[([0-9,]*)\]", result):
            found.append([int(size) for size in dims.split(",") if size])
    return found


def run(shape, length=SHORT, dtype=np.float64, accumulate=1, contrast=Contrast.MOMENTUM):
    count = int(np.prod(shape))
    mesh = jax.make_mesh(
        shape,
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        devices=jax.devices()[:count],
    )
    step = make_step(mesh, length, accumulate, contrast)
    state = make_state(step, length, dtype)
    shardings = state_shardings(mesh, state)
    state = jax.device_put(state, shardings)
    knobs = Knobs(
        seed=np.uint32(3),
        learning_rate=dtype(0.05),
        momentum=dtype(0.5),
        weights=Terms(*(dtype(weight) for weight in (1.0, 0.5, 0.5, 1.0))),
        filter_warm=np.bool_(True),
    )
    knobs = jax.device_put(knobs, whole(mesh))
    frozen = jax.device_put(make_frozen(dtype), whole(mesh))
    first = jax.device_put(make_batch(0), by_rows(mesh))
    compiled = quick.jit(step).lower(state, frozen, first, knobs).compile()
    losses = []
    for seed in (0, 1):
        batch = jax.device_put(make_batch(seed), by_rows(mesh))
        state, metrics = compiled(state, frozen, batch, knobs)
        losses.append({name: float(value) for name, value in metrics.items()})
    moved = [
        jax.tree_util.keystr(path)
        for (path, leaf), wanted in zip(
            jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings)
        )
        if not leaf.sharding.is_equivalent_to(wanted, leaf.ndim)
    ]
    parts = {
        "kernel": state.params["towers"]["image"]["transformer"]["blocks"]["mlp_in"]["kernel"],
    }
    if state.method:
        parts["queue"] = state.method.queue.image
    facts = {
        "losses": losses,
        "moved": moved,
        "collectives": collectives(compiled.as_text()),
        "shards": {
            name: [list(leaf.shape), list(leaf.addressable_shards[0].data.shape)]
            for name, leaf in parts.items()
        },
    }
    return facts, jax.tree_util.tree_leaves_with_path(jax.device_get(state))


def attention(shape=None):
    """Values and gradients; by rows and heads over a mesh of this shape, or of one device."""
    rng, rule = np.random.default_rng(6), Rule(jax.lax.Precision.HIGHEST)
    q, k, v, weight = (rng.normal(size=(8, 5, 4, 3)) for _ in range(4))
    bias = np.where(rng.random((8, 1, 1, 5)) < 0.7, 0.0, -1e9)

    def all_of_it(q, k, v, bias, weight):
        attend = written_out if shape is None else fused
        more = (None,) if shape is None else ()
        values, back = jax.vjp(lambda q, k, v: attend(q, k, v, bias, *more, rule), q, k, v)
        return values, *back(weight)

    if shape is None:
        return jax.jit(all_of_it)(q, k, v, bias, weight)
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    given = jax.device_put((q, k, v, bias, weight), by_rows(mesh))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(all_of_it)(*given)


def main(out):
    arrays, facts = {}, {}
    for name, shape in (("attention/one", None), ("attention/all", (2, 2, 2))):
        arrays |= {f"{name}/{place}": np.asarray(x) for place, x in enumerate(attention(shape))}
    for arm, settings in ARMS.items():
        facts[arm], leaves = run(**settings)
        arrays |= {f"{arm}{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    np.savez(out, facts=json.dumps(facts), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
