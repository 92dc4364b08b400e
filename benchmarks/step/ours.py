# SPDX-License-Identifier: Apache-2.0
"""Our step of a config on made-up pairs, and the same pairs for the peer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.step.peer_model import from_ours
from benchmarks.step.peer_step import Peer, PeerBatch
from cots_jax.batch import Batch
from cots_jax.data.masking import blockwise_masks, mask_text, masked_count
from cots_jax.objectives.total import OBJECTIVES, Terms
from cots_jax.planning.tokenizers import tokenizer_shapes
from cots_jax.schema import Config
from cots_jax.train.mesh import by_rows, make_mesh, state_shardings, whole
from cots_jax.train.planning import planned_step
from cots_jax.train.step import TEXT_MASK, CotsStep, Knobs

RATE, MOMENTUM, SEED = 1e-4, 0.99, 7
CLS, SEP, FIRST_WORD = 101, 102, 110  # BERT's; of a smaller vocabulary the same places
WORDS = (6, 14)  # tokens of a caption between them, about as many as real ones have


@dataclasses.dataclass
class Ours:
    """The compiled step with its state on the device, and what it is called with."""

    bare: CotsStep
    step: Any
    state: Any
    batch: Any
    knobs: Any
    weights: dict[str, float]

    def run(self) -> dict[str, jax.Array]:
        """One step; its metrics."""
        self.state, metrics = self.step(self.state, {}, self.batch, self.knobs)
        return metrics


def ours(config: Config) -> Ours:
    """A fresh model, a full queue of random keys, a batch; all objectives that are ever on."""
    mesh = make_mesh(config.hardware)
    tokenizer = tokenizer_shapes(config)
    planned = planned_step(config, mesh, codes=tokenizer.config.codes if tokenizer else None)
    bare, (shapes, _, _, _) = planned.step, planned.arguments
    keys = jax.random.split(jax.random.key(SEED), 2)
    fresh = jax.jit(lambda: bare.fresh(keys, 1), out_shardings=state_shardings(mesh, shapes))
    state = fresh()
    state = dataclasses.replace(state, method=_with_full_queue(state.method))
    batch = made_up_pairs(config, bare)
    weights = {name: float(name in bare.active) for name in OBJECTIVES}
    knobs = Knobs(
        np.uint32(SEED),
        np.float32(RATE),
        np.float32(MOMENTUM),
        Terms(**{name: np.float32(weight) for name, weight in weights.items()}),
        np.bool_(True),
    )
    return Ours(
        bare,
        jax.jit(bare, donate_argnums=0),
        state,
        jax.device_put(batch, by_rows(mesh)),
        jax.device_put(knobs, whole(mesh)),
        weights,
    )


def _with_full_queue(method: Any) -> Any:
    """Random unit keys of pairs of no group, so that every column counts."""
    queue = method.queue

    def unit(seed: int, like: jax.Array) -> jax.Array:
        rows = jax.random.normal(jax.random.key(seed), like.shape)
        rows = rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
        return jax.device_put(rows, like.sharding)

    full = dataclasses.replace(
        queue,
        image=unit(1, queue.image),
        text=unit(2, queue.text),
        valid=jax.device_put(jnp.ones_like(queue.valid), queue.valid.sharding),
    )
    return dataclasses.replace(method, queue=full)


def made_up_pairs(config: Config, step: CotsStep) -> Batch:
    """Noise for pictures, random words, masks as the pipeline draws them, and codes."""
    rng = np.random.default_rng(SEED)
    b, l = config.batch, config.data.text_length
    vision, masked = step.model.config.vision, config.method.masked
    length = np.minimum(rng.integers(*WORDS, size=b) + 2, l).astype(np.int32)
    place = np.arange(l)[None]
    text = rng.integers(FIRST_WORD, step.model.config.text.vocabulary, (b, l))
    text = np.where(place == 0, CLS, np.where(place == length[:, None] - 1, SEP, text))
    text = np.where(place < length[:, None], text, 0).astype(np.int32)
    rows = np.arange(b, dtype=np.int32)
    hidden = masked_count(vision.tokens, masked.image_ratio)
    ids = rng.integers(0, max(step.model.codes, 1), (b, vision.tokens), dtype=np.int32)
    return Batch(
        image=rng.integers(0, 256, (b, 1, vision.image_size, vision.image_size, 3), dtype=np.uint8),
        image_mask=blockwise_masks(rng, b, vision.side, hidden),
        text=text,
        text_length=length,
        pair_id=rows,
        group_id=rows,
        source=np.zeros_like(rows),
        weight=np.ones(b, np.float32),
        image_tokens=ids if "mvm" in step.active else None,
    )


def peer_of(config: Config, mine: Ours, device: str) -> Peer:
    """The peer with our parameters and our queue."""
    bare = mine.bare
    peer = Peer(
        bare.model.config,
        config.method,
        config.optimizer,
        bare.model.codes,
        bare.active,
    )
    state = jax.device_get(mine.state)
    peer.towers.load_state_dict(from_ours(state.params["towers"]))
    peer.heads.load_state_dict(from_ours(state.params["heads"]))
    peer.momentum.load_state_dict(from_ours(state.method.momentum_params))
    k = config.method.queue_length
    for name in ("image", "text", "group_id", "valid"):
        values = torch.tensor(np.array(getattr(state.method.queue, name)[:k]))
        setattr(peer.queue, name, values.long() if name == "group_id" else values)
    return peer.moved(device)


def peer_batch(config: Config, mine: Ours, step: int, device: str) -> PeerBatch:
    """The pairs with the masks that our step draws at that step."""
    batch, masked = jax.device_get(mine.batch), config.method.masked
    every = masked.text_every
    step_key = jax.random.fold_in(jax.random.key(SEED), step)
    keys = jax.random.split(step_key, config.batch)[::every]
    keys = jax.vmap(lambda key: jax.random.fold_in(key, TEXT_MASK))(keys)
    hidden = mask_text(
        keys,
        jnp.asarray(batch.text[::every]),
        jnp.asarray(batch.text_length[::every]),
        ratio=masked.text_ratio,
        masking=mine.bare.masking,
    )

    def tensor(values: Any) -> torch.Tensor:
        found = torch.tensor(np.array(values))
        return (found.long() if found.dtype == torch.int32 else found).to(device)

    ids = batch.image_tokens if batch.image_tokens is not None else np.zeros((1, 1), np.int32)
    return PeerBatch(
        image=tensor(batch.image[:, 0]),
        image_mask=tensor(batch.image_mask),
        image_tokens=tensor(ids),
        text=tensor(batch.text),
        text_length=tensor(batch.text_length),
        group_id=tensor(batch.group_id),
        masked_text=tensor(hidden.text),
        positions=tensor(hidden.positions),
        targets=tensor(hidden.targets),
        target_weight=tensor(hidden.weight),
    )
