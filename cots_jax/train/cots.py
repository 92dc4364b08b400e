# SPDX-License-Identifier: Apache-2.0
"""The COTS task: what the loop trains when `task = "cots"`."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from cots_jax import checkpoint
from cots_jax.batch import Batch
from cots_jax.data.masking import TextMasking, masked_count
from cots_jax.data.mixture import Segment
from cots_jax.data.pair_table import PairTable
from cots_jax.data.pipeline import training_batches
from cots_jax.data.specs import distinct_names
from cots_jax.data.tokenizer import Tokenizer, text_masking
from cots_jax.errors import UserError
from cots_jax.image_tokenizer import ImageTokenizer
from cots_jax.models.two_stream import Params, TwoStream, size_of
from cots_jax.objectives.momentum_filter import of_first_sources, with_more_sources
from cots_jax.objectives.total import OBJECTIVES, Terms
from cots_jax.retrieval.embed import Preprocessing
from cots_jax.retrieval.evaluation import (
    EvaluationSet,
    Lineage,
    evaluate_set,
    flat,
)
from cots_jax.schedule import Clockwork, Schedule, parse_schedule
from cots_jax.schema import Config
from cots_jax.switches import Contrast, MaskedUnit, Towers
from cots_jax.train.augmentation import augmentation_of
from cots_jax.train.compatibility import check_compatible
from cots_jax.train.health import momentum_distance, queue_health
from cots_jax.train.mesh import fetch, place, rows_of_process, state_shardings, whole
from cots_jax.train.optimizer import make_optimizer
from cots_jax.train.planning import arguments_of
from cots_jax.train.queue_storage import queue_as_saved, queue_placed_like
from cots_jax.train.state import State
from cots_jax.train.step import CotsStep, Gradients, Knobs, Method
from cots_jax.train.utilisation import step_flops
from cots_jax.weights.architecture import architecture
from cots_jax.weights.load import merged, read_initial


@dataclasses.dataclass(frozen=True)
class Schedules:
    """Every scheduled number of a COTS run."""

    learning_rate: Schedule
    momentum: Schedule
    weights: dict[str, Schedule]
    soft_targets: Schedule
    filter_from: int  # first step at which the filter drops

    @property
    def active(self) -> frozenset[str]:
        """Objectives that are on at any step."""
        return frozenset(name for name, weight in self.weights.items() if weight.ever_positive)

    @property
    def paused(self) -> frozenset[str]:
        """Objectives that are on at some steps and off at others."""
        return frozenset(n for n, w in self.weights.items() if w.ever_positive and w.ever_zero)


def read_schedules(config: Config, clock: Clockwork) -> Schedules:
    """Parses the schedules of a config. Raises UserError."""
    method = config.method
    weights = {
        name: parse_schedule(
            getattr(method, f"weight_{name}"), clock, f"config.method.weight_{name}"
        )
        for name in OBJECTIVES
    }
    rate = config.optimizer.learning_rate
    return Schedules(
        parse_schedule(rate, clock, "config.optimizer.learning_rate"),
        parse_schedule(method.momentum, clock, "config.method.momentum"),
        weights,
        parse_schedule(method.soft_targets, clock, "config.method.soft_targets"),
        clock.steps(method.filter.warmup, "config.method.filter.warmup"),
    )


class CotsTask:
    """Binds config, data and tokenizers to the pure step, and names what it measures."""

    def __init__(
        self,
        config: Config,
        clock: Clockwork,
        mesh: Mesh,
        table: PairTable,
        tokenizer: Tokenizer,
        image_tokenizer: ImageTokenizer | None,
        evaluation: list[EvaluationSet],
        lineage: Lineage,
    ) -> None:
        self.config, self.clock, self.mesh = config, clock, mesh
        self.table, self.tokenizer, self.evaluation = table, tokenizer, evaluation
        self.image_tokenizer, self.lineage = image_tokenizer, lineage
        self.schedules = read_schedules(config, clock)
        size = size_of(config, tokenizer.vocab_size)
        made_ahead = table.token_facts
        codes = made_ahead.codes if made_ahead else 0
        if image_tokenizer is not None:
            codes = image_tokenizer.config.codes
        heads = self.schedules.active & {"mvm", "mlm"}
        self.model = TwoStream(size, config.method.masked, codes, heads)
        active = self.schedules.active
        check_compatible(config, active, size, made_ahead, image_tokenizer, tokenizer)
        vision = size.vision
        self.preprocessing = Preprocessing(vision.image_size, vision.mean, vision.std)
        self._step = CotsStep(
            model=self.model,
            method=config.method,
            masking=_masking(config, tokenizer),
            augmentation=augmentation_of(config.augmentation, vision),
            optimizer=make_optimizer(config.optimizer),
            mesh=mesh,
            active=self.schedules.active,
            paused=self.schedules.paused,
            image_tokenizer=image_tokenizer.config if image_tokenizer else None,
            tokenizer_pieces=config.hardware.tokenizer_pieces,
            accumulate=config.hardware.accumulate,
            soft_targets=self.schedules.soft_targets.ever_positive,
        )
        self.step = jax.jit(self._step, donate_argnums=0)
        self._counted: dict[frozenset[str], int] = {}

    def compile(self) -> None:
        """Makes the step's program by shapes alone; JAX keeps it for the first call of `step`."""
        frozen = self.image_tokenizer.params if self.image_tokenizer else None
        shapes = arguments_of(self._step, self.config, frozen, len(self.table.sources))
        self.step.lower(*shapes).compile()

    # ---------------------------------------------------------------- state

    def fresh(self) -> State:
        """The state at step 0, placed on the mesh."""
        keys = jax.random.split(jax.random.key(self.config.seed), 2)

        def make() -> State:
            return self._step.fresh(keys, len(self.table.sources))

        shardings = state_shardings(self.mesh, jax.eval_shape(make))
        return jax.jit(make, out_shardings=shardings)()

    def initialised(self, state: State) -> State:
        """A fresh state with the weights of `config.init_from` in it, momentum towers too."""
        if not self.initial:
            return state

        def placed(new: Any, old: Array) -> Array:
            return place(new, old.sharding)

        params = jax.tree.map(placed, merged(state.params, self.initial), state.params)
        if not state.method:
            return dataclasses.replace(state, params=params)
        teacher = jax.tree.map(jnp.copy, params["towers"])  # a buffer of its own
        method = dataclasses.replace(state.method, momentum_params=teacher)
        return dataclasses.replace(state, params=params, method=method)

    @functools.cached_property
    def initial(self) -> Params:
        """The weights of `config.init_from`. Raises UserError where they do not fit."""
        named = self.config.init_from
        if not (named.run or named.image or named.text):
            return {}  # tracing what they would have to fit takes a second
        key = jax.random.key(0)
        like = {
            "towers": jax.eval_shape(self.model.init_towers, key),
            "heads": jax.eval_shape(self._step.fresh_heads, key),
        }
        return read_initial(self.config.init_from, self.model.config, like)

    def frozen(self) -> Any:
        """The image tokenizer's parameters on the mesh; empty without one."""
        params = self.image_tokenizer.params if self.image_tokenizer else {}
        return place(params, whole(self.mesh))

    def trees(self, state: State) -> dict[str, Any]:
        """The state as checkpoint items; using a model restores `towers` only."""
        training = {"step": state.step, "skipped": state.skipped, "opt_state": state.opt_state}
        items = {
            "towers": {"online": state.params["towers"]},
            "heads": state.params["heads"],
            "training": training,
        }
        if state.method:
            items["towers"]["momentum"] = state.method.momentum_params
            items["method"] = {"queue": state.method.queue, "filter": state.method.filter}
        return items

    def restored(self, path: Path, like: State, sources: int) -> State:
        """The state of a checkpoint, placed like `like`.

        sources: how many there were then; the filter has seen nothing of those that came since.
        """
        trees, length = self.trees(like), self.config.method.queue_length
        if like.method:
            trees["method"]["filter"] = of_first_sources(like.method.filter, sources)
            queue = queue_as_saved(path, like.method.queue, length, self.mesh)
            trees["method"]["queue"] = queue
        items = {name: checkpoint.restore(path, name, tree) for name, tree in trees.items()}
        params = {"towers": items["towers"]["online"], "heads": items["heads"]}
        method: Any = like.method
        if method:
            queue = queue_placed_like(items["method"]["queue"], like.method.queue, length)
            items["method"]["queue"] = queue
            known = with_more_sources(items["method"]["filter"], len(self.table.sources))
            items["method"]["filter"] = jax.device_put(known, whole(self.mesh))
            method = Method(items["towers"]["momentum"], **items["method"])
        return State(params=params, method=method, **items["training"])

    def facts(self) -> dict[str, Any]:
        """What using the model needs to know."""
        return {
            "config": self.config.to_dict(),
            "tokenizer": self.tokenizer.to_json(),
            "architecture": architecture(self.model.config),
            "codes": self.model.codes,
            "heads": sorted(self.model.heads),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "lineage": list(self.lineage.trained_on),
            "fine_tuned_on": list(self.lineage.fine_tuned_on),
            "started_from": list(self.lineage.started_from),
            "image_tokens": facts.digest if (facts := self.table.token_facts) else "",
        }

    # ---------------------------------------------------------------- steps

    def batches(self, segments: Sequence[Segment] = ()) -> grain.IterDataset[Batch]:
        """The endless training stream, by the config's weights where no segments are given."""
        vision = self.model.config.vision
        masked = masked_count(vision.tokens, self.config.method.masked.image_ratio)
        return training_batches(
            self.table,
            self.config.batch,
            self.config.seed,
            masked=masked,
            patch_side=vision.side,
            rows=rows_of_process(self.mesh, self.config.batch),
            segments=segments,
            threads=self.config.data.threads,
        )

    def knobs(self, step: int) -> Knobs:
        """The scheduled numbers of `step`."""
        schedules, method = self.schedules, self.config.method
        weights = {
            name: np.float32(schedules.weights[name](step)) if name in schedules.active else 0.0
            for name in OBJECTIVES
        }
        momentum = schedules.momentum(step) ** (self.config.batch / method.reference_batch)
        return Knobs(
            seed=np.uint32(self.config.seed),
            learning_rate=np.float32(schedules.learning_rate(step)),
            momentum=np.float32(momentum),
            weights=Terms(**{name: np.float32(value) for name, value in weights.items()}),
            filter_warm=np.bool_(step >= schedules.filter_from),
            soft_share=np.float32(schedules.soft_targets(step)),
        )

    def logged(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Adds chance levels and schedules, and names the sources."""
        out = {name: value for name, value in metrics.items() if not name.startswith("kept/")}
        folders = [Path(source.folder).name for source in self.table.sources]
        for number, name in enumerate(distinct_names(self.table.sources, folders)):
            if f"kept/{number}" in metrics:
                out[f"kept/{name}"] = metrics[f"kept/{number}"]
        chances = {
            "instance": 2 * math.log1p(max(metrics["columns"], 0)),
            "mvm": math.log(max(self.model.codes, 1)),
            "mlm": math.log(self.tokenizer.vocab_size),
        }
        if self.config.method.contrast is Contrast.SIGMOID:
            del chances["instance"]  # a loss over single pairs, whose bias is learned
        # The numbers are of the step that ends at `step`; an objective that was off has none.
        weights, on = self.schedules.weights, self._on(step)
        for name in self.schedules.active - on:
            out.pop(f"loss/{name}", None)
        out |= {f"chance/{name}": value for name, value in chances.items() if name in on}
        out["learning_rate"] = self.schedules.learning_rate(step - 1)
        out.setdefault("temperature", self.config.method.temperature)
        active = sorted(self.schedules.active)
        return out | {f"weight/{name}": weights[name](step - 1) for name in active}

    def flops(self, step: int) -> int:
        """Of the step that ends at `step`, on all chips."""
        on = self._on(step)
        if on not in self._counted:  # it takes a trace, so once for each set of objectives
            frozen = self.image_tokenizer.params if self.image_tokenizer else None
            sources = len(self.table.sources)
            self._counted[on] = step_flops(self._step, self.config, on, frozen, sources)
        return self._counted[on]

    def _on(self, step: int) -> frozenset[str]:
        """Objectives with a weight in the step that ends at `step`."""
        weights = self.schedules.weights
        return frozenset(n for n in self.schedules.active if weights[n](step - 1) > 0)

    # ---------------------------------------------------------------- looking at it

    def gradients(self, state: State, frozen: Any, batch: Batch, knobs: Knobs) -> Gradients:
        """What the step would be moved by; pure, to be compiled by whoever looks at it."""
        return self._step.gradients(state, frozen, batch, knobs)

    def evaluate(self, state: State) -> dict[str, float]:
        """Recall on the sets of `data.eval`, by the same code as the `evaluate` door."""
        online = self.config.evaluation_towers is Towers.ONLINE
        towers = state.params["towers"] if online else state.method.momentum_params
        towers = jax.device_put(fetch(towers), jax.local_devices()[0])
        lineage = dataclasses.replace(self.lineage, towers=str(self.config.evaluation_towers))
        metrics: dict[str, float] = {}
        for chosen in self.evaluation:
            scored = evaluate_set(towers, self.model, self.preprocessing, chosen, lineage)
            metrics |= flat(scored.result)
        return metrics

    def diagnose(self, state: State, batch: Batch, knobs: Knobs) -> dict[str, float]:
        """Share of each objective in the towers' gradient norm at this step's weights, and the
        health of momentum towers and queue.

        Runs the compiled step on copies of the state with one weight at a time. Under
        `masked.forward = shared` the other objectives are so measured without masks.
        """
        norms = {}
        for name in sorted(self.schedules.active):
            alone = {other: np.float32(0) for other in OBJECTIVES}
            alone[name] = getattr(knobs.weights, name)
            only = dataclasses.replace(knobs, weights=Terms(**alone))
            only = place(only, whole(self.mesh))
            _, measured = self.step(jax.tree.map(jnp.copy, state), self._frozen, batch, only)
            norms[name] = float(jax.device_get(measured["tower_gradient_norm"]))
        total = sum(norms.values())
        shares = {f"gradient_share/{name}": norm / total for name, norm in norms.items() if total}
        if not state.method:
            return shares
        health = jax.device_get(self._health(state.params["towers"], state.method))
        return shares | {name: float(value) for name, value in health.items()}

    def finish(self, state: State) -> dict[str, Any]:
        """Facts that only a finished run has."""
        return {}

    @functools.cached_property
    def _health(self) -> Callable[[Params, Method], dict[str, Array]]:
        length = self.config.method.queue_length

        def measure(online: Params, method: Method) -> dict[str, Array]:
            apart = momentum_distance(online, method.momentum_params)
            health = queue_health(method.queue, length) if length else {}
            return {"momentum/distance": apart, **health}

        return jax.jit(measure, out_shardings=whole(self.mesh))

    @property
    def _frozen(self) -> Any:
        if not hasattr(self, "_frozen_params"):
            self._frozen_params = self.frozen()
        return self._frozen_params


def _masking(config: Config, tokenizer: Tokenizer) -> TextMasking:
    masking = text_masking(tokenizer)
    if config.method.masked.text_unit is MaskedUnit.TOKEN:
        return masking
    continues = tokenizer.is_continuation
    if not continues.any():
        raise UserError(
            "config.method.masked.text_unit = word needs a WordPiece tokenizer, which marks the "
            "pieces that continue a word by ##: set it to token, or take another tokenizer"
        )
    return dataclasses.replace(masking, continues=tuple(np.flatnonzero(continues).tolist()))
