# SPDX-License-Identifier: Apache-2.0
"""The real step of a config as shapes: it can be counted and compiled without data or devices."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cots_jax.batch import Batch
from cots_jax.data.masking import TextMasking
from cots_jax.data.tokenizer import load_tokenizer
from cots_jax.models.image_tokens import TokenizerConfig
from cots_jax.models.two_stream import TwoStream, size_of
from cots_jax.objectives.total import OBJECTIVES, Terms
from cots_jax.schedule import schedule_values
from cots_jax.schema import Config
from cots_jax.train.augmentation import augmentation_of
from cots_jax.train.mesh import by_rows, state_shardings, whole
from cots_jax.train.optimizer import make_optimizer
from cots_jax.train.step import CotsStep, Knobs

DALLE_CODES = 8192
BERT_WORDS, BERT_SPECIALS, BERT_MASK = 30_522, (0, 100, 101, 102, 103), 103


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A step with the shapes and shardings of its arguments: state, frozen, batch, knobs."""

    step: CotsStep
    arguments: tuple[Any, Any, Any, Any]

    @property
    def parameters(self) -> int:
        """What is trained: both towers and the masked heads."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.arguments[0].params))


def planned_step(
    config: Config,
    mesh: Mesh,
    image_tokenizer: TokenizerConfig | None = None,
    frozen: Any = None,
    sources: int = 1,
    codes: int | None = None,
) -> PlannedStep:
    """The step of a config, with the objectives on that its weights switch on.

    image_tokenizer, frozen: makes the codes online, and its parameters' shapes; without one the ids
    come with the batch. sources: of training data. codes: of such ids, where they are not DALL-E's.
    """
    words = _vocabulary(config)
    size = size_of(config, words)
    codes = image_tokenizer.codes if image_tokenizer else codes or DALLE_CODES
    method = config.method
    weights = {
        name: schedule_values(getattr(method, f"weight_{name}"), f"config.method.weight_{name}")
        for name in OBJECTIVES
    }
    active = frozenset(name for name, values in weights.items() if max(values) > 0)
    model = TwoStream(size, method.masked, codes, active & {"mvm", "mlm"})
    step = CotsStep(
        model=model,
        method=method,
        masking=TextMasking(BERT_MASK, words, BERT_SPECIALS),
        augmentation=augmentation_of(config.augmentation, size.vision),
        optimizer=make_optimizer(config.optimizer),
        mesh=mesh,
        active=active,
        paused=frozenset(name for name in active if min(weights[name]) <= 0),
        image_tokenizer=image_tokenizer,
        accumulate=config.hardware.accumulate,
        tokenizer_pieces=config.hardware.tokenizer_pieces,
        soft_targets=any(schedule_values(method.soft_targets, "config.method.soft_targets")),
    )
    return PlannedStep(step, arguments_of(step, config, frozen, sources))


def arguments_of(
    step: CotsStep, config: Config, frozen: Any = None, sources: int = 1
) -> tuple[Any, Any, Any, Any]:
    """Shapes and shardings of what a step is called with: state, frozen, batch, knobs."""
    mesh = step.mesh
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    state = jax.eval_shape(lambda keys: step.fresh(keys, sources), keys)
    state = _placed(state, state_shardings(mesh, state))
    everywhere = whole(mesh)
    frozen = jax.tree.map(lambda leaf: _shape(leaf, everywhere), frozen or {})
    knobs = jax.tree.map(lambda leaf: _shape(np.asarray(leaf), everywhere), _knobs())
    ids = "mvm" in step.active and step.image_tokenizer is None
    rows = by_rows(mesh)
    batch = jax.tree.map(lambda leaf: _shape(leaf, rows), _batch(config, step.model, ids=ids))
    return state, frozen, batch, knobs


def _vocabulary(config: Config) -> int:
    """Words of `captions:SIZE`, which trains at most so many, and of a tokenizer that lies on the
    disk; of anything else BERT's."""
    named = config.data.tokenizer
    name, _, size = named.partition(":")
    if name == "captions" and size.isdigit():
        return int(size)
    return load_tokenizer(named).vocab_size if named and Path(named).exists() else BERT_WORDS


def _batch(config: Config, model: TwoStream, *, ids: bool) -> Batch:
    b, l, vision = config.batch, config.data.text_length, model.config.vision

    def array(kind: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((b, *shape), kind)

    return Batch(
        image=array(jnp.uint8, config.data.frames, vision.image_size, vision.image_size, 3),
        image_mask=array(jnp.bool_, vision.tokens),
        text=array(jnp.int32, l),
        text_length=array(jnp.int32),
        pair_id=array(jnp.int32),
        group_id=array(jnp.int32),
        source=array(jnp.int32),
        weight=array(jnp.float32),
        image_tokens=array(jnp.int32, vision.tokens) if ids else None,
    )


def _knobs() -> Knobs:
    one = np.float32(1)
    weights = Terms(**dict.fromkeys(OBJECTIVES, one))
    return Knobs(np.uint32(0), one, one, weights, np.bool_(True), one)


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(_shape, tree, shardings)


def _shape(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
