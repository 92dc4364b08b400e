# SPDX-License-Identifier: Apache-2.0
"""One COTS step: a pure function of (state, frozen, batch, knobs).

Order (contract): keys from the momentum towers as found; filter statistics over the global batch,
then its rows judged; losses against the queue as found; optimizer; momentum from the new
parameters; enqueue. No negative carries a gradient, so a batch may be cut into pieces: all keys,
decisions and denominators first, then gradients piece by piece, one update, one enqueue. The
baselines that compare a batch with itself have no keys, queue or filter; see gradcache.py.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from cots_jax.batch import Batch
from cots_jax.data.masking import MaskedText, TextMasking, drop_words, mask_text
from cots_jax.data.transforms import Augmentation, augment, tokenizer_view
from cots_jax.models.image_tokens import TokenizerConfig, picture_ids
from cots_jax.models.two_stream import Params, TwoStream
from cots_jax.objectives.contrastive import Rows
from cots_jax.objectives.momentum_filter import (
    FilterState,
    Judgement,
    empty_filter,
    filter_threshold,
    judge,
)
from cots_jax.objectives.queue import Columns, Queue, empty_queue, enqueue, queue_columns
from cots_jax.objectives.sigmoid import fresh_bias
from cots_jax.objectives.temperature import clamped, fresh_temperature, temperature_of
from cots_jax.objectives.total import (
    Candidates,
    Losses,
    Terms,
    TokenPass,
    Tools,
    Views,
    denominators,
    feature_losses,
    losses,
    token_losses,
)
from cots_jax.schema import MethodConfig
from cots_jax.switches import Contrast, Negatives, Switch, TemperatureRule, TokenizerInput
from cots_jax.train.dropped import Judged
from cots_jax.train.gradcache import cached_gradients, summed_gradients
from cots_jax.train.mesh import by_rows, row_shards, state_shardings, whole
from cots_jax.train.state import State, advance, fresh_state, unless_broken

AUGMENTATION, TEXT_MASK, WORD_DROPOUT = 0, 1, 2  # what a row's key is folded with


@flax.struct.dataclass
class Method:
    """COTS's own part of the state."""

    momentum_params: Params  # float32 always: in bf16 an EMA never moves
    queue: Queue
    filter: FilterState


@flax.struct.dataclass
class Knobs:
    """The scheduled numbers of one step, made on the host from the step alone.

    Arguments rather than constants, so that another seed or rate does not compile again.
    """

    seed: Any  # uint32
    learning_rate: Any
    momentum: Any  # already converted to this batch
    weights: Terms
    filter_warm: Any  # bool: whether the filter drops
    soft_share: Any = 0.0  # of the momentum rows in the instance level's target


@flax.struct.dataclass
class RowInputs:
    """A batch with its rows' keys, places and weights after the filter; any b rows of it."""

    batch: Batch
    key: Key[Array, "b"]
    row: Int[Array, "b"]
    weight: Float[Array, "b"]


@flax.struct.dataclass
class Gradients:
    """What the backward passes give, and what they were computed from."""

    grads: Params
    losses: Losses
    denominators: Terms
    keys: Rows | None  # of the momentum towers, where there are any
    judgement: Judgement | None


@dataclasses.dataclass(frozen=True)
class CotsStep:
    """The step with everything static bound; call it under `jax.jit`."""

    __name__ = "cots_step"  # in profiles and in what the compiler says

    model: TwoStream
    method: MethodConfig
    masking: TextMasking
    augmentation: Augmentation
    optimizer: optax.GradientTransformationExtraArgs
    mesh: Mesh
    active: frozenset[str]
    paused: frozenset[str]
    image_tokenizer: TokenizerConfig | None = None
    tokenizer_pieces: int = 1
    accumulate: int = 1
    soft_targets: bool = False  # whether their share is ever above 0

    def fresh(self, keys: Key[Array, "2"], sources: int) -> State:
        """The state at step 0, of one device; the keys are for the towers and for the heads."""
        towers = self.model.init_towers(keys[0])
        params = {"towers": towers, "heads": self.fresh_heads(keys[1])}
        if self.method.contrast is not Contrast.MOMENTUM:
            return fresh_state(params, self.optimizer, {})
        copy = jax.tree.map(jnp.copy, towers)  # a buffer of its own: the state is donated
        queue = empty_queue(
            self.method.queue_length,
            self.model.config.vision.embed_dim,
            row_shards(self.mesh) * max(1, self.method.column_chunk),
        )
        method = Method(copy, queue, empty_filter(sources))
        return fresh_state(params, self.optimizer, method)

    def fresh_heads(self, key: Key[Array, ""]) -> Params:
        """All that is learned beside the towers: masked heads, temperature, bias."""
        heads = self.model.init_heads(key)
        return heads | fresh_temperature(self.method) | fresh_bias(self.method)

    def __call__(
        self, state: State, frozen: Params, batch: Batch, knobs: Knobs
    ) -> tuple[State, dict[str, Any]]:
        """The next state, and this step's metrics; `judged` among them where it is asked for."""
        found = self.gradients(state, frozen, batch, knobs)
        norm = optax.tree.norm(found.grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(found.losses.total)
        new = advance(state, found.grads, knobs.learning_rate, self.optimizer, finite)
        new = dataclasses.replace(new, params=clamped(new.params, self.method))
        method = self._next_method(state.method, found, batch, knobs, new)
        new = dataclasses.replace(new, method=unless_broken(method, state.method, finite))
        # Left to XLA, small arrays come back cut otherwise: a second compilation, no donation.
        new = jax.lax.with_sharding_constraint(new, state_shardings(self.mesh, new))
        metrics = self._metrics(found, batch, state.method, norm)
        if self.method.temperature_rule is TemperatureRule.LEARNED:
            temperature = temperature_of(state.params["heads"], self.method)
            metrics["temperature"] = jnp.asarray(temperature)
        if self.method.filter.list_dropped is Switch.ON and found.judgement is not None:
            judged = self._judged(found.judgement, batch)
            return new, metrics | {"skipped": new.skipped, "judged": judged}
        return new, metrics | {"skipped": new.skipped}

    def _next_method(
        self, method: Any, found: Gradients, batch: Batch, knobs: Knobs, new: State
    ) -> Any:
        """Momentum from the new parameters; the keys into the queue."""
        if found.keys is None or found.judgement is None:
            return method
        a = knobs.momentum
        momentum_params = jax.tree.map(
            lambda m, p: a * m + (1 - a) * p, method.momentum_params, new.params["towers"]
        )
        # All rows on every device: of rows that are cut each would look up its own for all columns.
        group_id, keep = (self._gather(x) for x in (batch.group_id, found.judgement.keep))
        queue = enqueue(
            method.queue,
            found.keys.image,
            found.keys.text,
            group_id,
            keep,
            length=self.method.queue_length,
        )
        return Method(momentum_params, queue, found.judgement.state)

    def gradients(self, state: State, frozen: Params, batch: Batch, knobs: Knobs) -> Gradients:
        """Keys and filter where there are any, then the loss and its gradients piece by piece."""
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # fused attention cuts by it
            return self._gradients(state, frozen, batch, knobs)

    def _gradients(self, state: State, frozen: Params, batch: Batch, knobs: Knobs) -> Gradients:
        b = batch.weight.shape[0]
        step_key = jax.random.fold_in(jax.random.key(knobs.seed), state.step)
        rows = RowInputs(batch, jax.random.split(step_key, b), jnp.arange(b), batch.weight)
        keys, judgement, columns = None, None, ()
        if self.method.contrast is Contrast.MOMENTUM:
            keys = self._momentum_keys(state.method.momentum_params, rows)
            judgement = self._judge(state.method.filter, keys, batch, knobs)
            rows = dataclasses.replace(rows, weight=jnp.where(judgement.keep, batch.weight, 0))
            columns = (queue_columns(state.method.queue),)
            if self.method.negatives is Negatives.QUEUE_AND_BATCH:
                columns = *columns, self._batch_columns(keys, batch, judgement)
        masked = self._mask_texts(rows)
        counts = denominators(self._views(rows, masked, with_image=False), self.model)
        pieces = (self._cut(rows), self._cut(masked), self._cut(keys))

        def piece_losses(params: Params, piece: Any) -> Losses:
            piece_rows, piece_masked, piece_keys = piece
            views = self._views(piece_rows, piece_masked)
            tools = self._tools(frozen, piece_rows)
            candidates = None if piece_keys is None else Candidates(piece_keys, columns)
            return losses(params, tools, views, candidates, knobs.weights, counts, knobs.soft_share)

        def encode(params: Params, piece: Any) -> TokenPass:
            piece_rows, piece_masked, _ = piece
            views = self._views(piece_rows, piece_masked)
            tools = self._tools(frozen, piece_rows)
            return token_losses(params, tools, views, knobs.weights, counts)

        def compare(params: Params, image: Array, text: Array) -> Losses:
            features = Rows(image, text, batch.group_id, rows.row)
            tools = self._tools(frozen, rows)
            heads, weight = params["heads"], rows.weight
            return feature_losses(heads, tools, features, weight, None, knobs.weights, counts)

        if keys is None and self.accumulate > 1:
            grads, found = cached_gradients(
                state.params, pieces, encode, compare, self._join, self._cut
            )
        else:
            grads, found = summed_gradients(state.params, pieces, piece_losses)
        return Gradients(grads, found, counts, keys, judgement)

    def _tools(self, frozen: Params, rows: RowInputs) -> Tools:
        def tokenize(view: Array) -> Array:
            config = self.image_tokenizer
            if config is None:
                raise ValueError("masked vision modelling without ids or an image tokenizer")
            clean = self.method.masked.tokenizer_input is TokenizerInput.CLEAN
            if config.image_size == view.shape[2] and not clean:
                pixels = self._unnormalised(view[:, 0])
            else:
                pixels = self._tokenizer_pixels(rows, config.image_size, jittered=not clean)
            return picture_ids(config, frozen, pixels, self.tokenizer_pieces)

        return Tools(
            self.model,
            self.method,
            self.active,
            self.paused,
            tokenize,
            self._gather,
            lambda columns: jax.lax.with_sharding_constraint(columns, by_rows(self.mesh)),
            self.soft_targets,
        )

    def _gather(self, x: Array) -> Array:
        return jax.lax.with_sharding_constraint(x, whole(self.mesh))

    def _unnormalised(self, view: Array) -> Array:
        mean, std = (jnp.asarray(x) for x in (self.augmentation.mean, self.augmentation.std))
        return view * std[None, None, None] + mean[None, None, None]

    def _tokenizer_pixels(self, rows: RowInputs, size: int, *, jittered: bool) -> Array:
        every = self.method.masked.image_every
        keys = jax.vmap(lambda key: jax.random.fold_in(key, AUGMENTATION))(rows.key[::every])
        image = rows.batch.image[::every]
        return tokenizer_view(keys, image, self.augmentation, size, jittered=jittered)[:, 0]

    def _augmented(self, rows: RowInputs) -> Array:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, AUGMENTATION))(rows.key)
        size = self.model.config.vision.image_size
        return augment(keys, rows.batch.image, self.augmentation, size)

    def _fewer_words(self, rows: RowInputs) -> Array:
        """The online tower's texts; the keys come from the whole ones."""
        rate, text = self.augmentation.word_dropout, rows.batch.text
        if not rate:
            return text
        keys = jax.vmap(lambda key: jax.random.fold_in(key, WORD_DROPOUT))(rows.key)
        return drop_words(keys, text, rate, self.masking)

    def _mask_texts(self, rows: RowInputs) -> MaskedText:
        every = self.method.masked.text_every
        keys = jax.vmap(lambda key: jax.random.fold_in(key, TEXT_MASK))(rows.key[::every])
        text, length = rows.batch.text[::every], rows.batch.text_length[::every]
        ratio = self.method.masked.text_ratio
        return mask_text(keys, text, length, ratio=ratio, masking=self.masking)

    def _views(self, rows: RowInputs, masked: MaskedText, with_image: bool = True) -> Views:
        batch, every = rows.batch, self.method.masked.image_every
        ids = batch.image_tokens
        return Views(
            image=self._augmented(rows) if with_image else jnp.zeros((1, 1, 1, 1, 3)),
            text=self._fewer_words(rows),
            text_length=batch.text_length,
            group_id=batch.group_id,
            row=rows.row,
            weight=rows.weight,
            image_mask=batch.image_mask[::every],
            masked_text=masked,
            image_tokens=None if ids is None else ids[::every],
        )

    def _momentum_keys(self, momentum_params: Params, rows: RowInputs) -> Rows:
        """Momentum features of all rows, the same on every device."""

        def encode(piece: RowInputs) -> Rows:
            batch = piece.batch
            image = self.model.encode_image(momentum_params, self._augmented(piece))
            text = self.model.encode_text(momentum_params, batch.text, batch.text_length)
            return Rows(image.joint, text.joint, batch.group_id, piece.row)

        pieces = self._cut(rows)
        if self.accumulate == 1:
            first = jax.tree.map(lambda leaf: leaf[0], pieces)
            encoded = jax.tree.map(lambda leaf: leaf[None], encode(first))
        else:
            encoded = jax.lax.map(encode, pieces)
        return jax.tree.map(self._gather, jax.lax.stop_gradient(self._join(encoded)))

    def _judge(self, state: FilterState, keys: Rows, batch: Batch, knobs: Knobs) -> Judgement:
        config = self.method.filter
        return judge(
            state,
            keys.image,
            keys.text,
            batch.source,
            batch.weight,
            kappa=config.kappa,
            momentum=config.momentum,
            reference_batch=self.method.reference_batch,
            warm=knobs.filter_warm & jnp.asarray(config.state is Switch.ON),
        )

    def _judged(self, judgement: Judgement, batch: Batch) -> Judged:
        config = self.method.filter
        threshold = filter_threshold(
            judgement.state, config.kappa, config.momentum, self.method.reference_batch
        )
        dropped = (batch.weight > 0) & ~judgement.keep
        of_row = threshold[jnp.maximum(batch.source, 0)]
        judged = Judged(batch.pair_id, dropped, judgement.similarity, of_row)
        return jax.tree.map(self._gather, judged)

    def _batch_columns(self, keys: Rows, batch: Batch, judgement: Judgement) -> Columns:
        columns = Columns(keys.image, keys.text, batch.group_id, judgement.keep, keys.row)
        return jax.lax.with_sharding_constraint(columns, by_rows(self.mesh))

    def _cut(self, tree: Any) -> Any:
        """[b, …] -> [pieces, b / pieces, …]; every device gives rows of its own to each piece."""
        shards, count = row_shards(self.mesh), self.accumulate

        def cut(leaf: Array) -> Array:
            parts = leaf.reshape(shards, count, -1, *leaf.shape[1:])
            return jnp.swapaxes(parts, 0, 1).reshape(count, -1, *leaf.shape[1:])

        return jax.tree.map(cut, tree)

    def _join(self, tree: Any) -> Any:
        """The inverse of `_cut`."""
        shards, count = row_shards(self.mesh), self.accumulate

        def join(leaf: Array) -> Array:
            parts = leaf.reshape(count, shards, -1, *leaf.shape[2:])
            return jnp.swapaxes(parts, 0, 1).reshape(-1, *leaf.shape[2:])

        return jax.tree.map(join, tree)

    def _metrics(
        self, found: Gradients, batch: Batch, method: Any, norm: Array
    ) -> dict[str, Array]:
        """`method` as the losses found it."""
        means = jax.tree.map(
            lambda total, count: total / jnp.where(count > 0, count, 1),
            found.losses.sums,
            found.denominators,
        )
        metrics = {
            "loss": found.losses.total,
            "gradient_norm": norm,
            "tower_gradient_norm": optax.tree.norm(found.grads["towers"]),
        }
        metrics |= {f"loss/{name}": getattr(means, name) for name in sorted(self.active)}
        real, judgement = batch.weight > 0, found.judgement
        if judgement is None:
            return metrics | {"columns": jnp.sum(real) - 1}
        for source in range(judgement.state.count.shape[0]):
            mine = real & (batch.source == source)
            kept = jnp.sum(mine & judgement.keep) / jnp.maximum(jnp.sum(mine), 1)
            metrics[f"kept/{source}"] = kept
        columns = jnp.sum(method.queue.valid)
        if self.method.negatives is Negatives.QUEUE_AND_BATCH:
            columns = columns + jnp.sum(judgement.keep) - 1
        metrics["columns"] = columns
        similarity = jnp.where(real, judgement.similarity, 0)
        metrics["similarity"] = jnp.sum(similarity) / jnp.maximum(jnp.sum(real), 1)
        return metrics
