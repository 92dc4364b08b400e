# SPDX-License-Identifier: Apache-2.0
"""The dVAE task: what the loop trains when `task = "dvae"`, on the pictures of the same folders."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from cots_jax import checkpoint
from cots_jax.batch import Batch
from cots_jax.data.mixture import Segment
from cots_jax.data.pair_table import PairTable
from cots_jax.data.pipeline import image_batches, training_batches
from cots_jax.data.transforms import Augmentation, augment
from cots_jax.errors import UserError
from cots_jax.models.apply import apply
from cots_jax.models.dvae import Dvae, DvaeConfig
from cots_jax.models.two_stream import Params
from cots_jax.objectives.reconstruction import elbo
from cots_jax.objectives.tokenizer_quality import PIXELS, TokenizerQuality, tokenizer_quality
from cots_jax.retrieval.evaluation import EvaluationSet
from cots_jax.schedule import Clockwork, parse_schedule
from cots_jax.schema import Config
from cots_jax.train.mesh import fetch, rows_of_process, state_shardings
from cots_jax.train.optimizer import make_optimizer
from cots_jax.train.state import State, advance, fresh_state


@flax.struct.dataclass
class DvaeKnobs:
    """The scheduled numbers of one step."""

    seed: Any
    learning_rate: Any
    temperature: Any  # of the Gumbel-softmax
    kl_weight: Any
    usage_weight: Any


class DvaeTask:
    """Trains the image tokenizer of small runs; the run ends in an error where it is unfit."""

    def __init__(
        self,
        config: Config,
        clock: Clockwork,
        mesh: Mesh,
        table: PairTable,
        dvae: DvaeConfig,
        evaluation: list[EvaluationSet],
        lineage: tuple[str, ...],
    ) -> None:
        if not evaluation:
            raise UserError(
                "config.data.eval names no pictures to judge the image tokenizer by when it is "
                "done: name a held-out FOLDER#SPLIT"
            )
        self.config, self.clock, self.mesh, self.table = config, clock, mesh, table
        self.evaluation, self.lineage, self.dvae = evaluation, lineage, dvae
        self.module = Dvae(dvae)
        fields: dict[str, Any] = dataclasses.asdict(config.augmentation)
        fields |= {"crop": fields["crop"] or None, "mean": PIXELS[0], "std": PIXELS[1]}
        self.augmentation = Augmentation(**fields)
        self.optimizer = make_optimizer(config.optimizer)
        texts = {
            "learning_rate": (config.optimizer.learning_rate, "config.optimizer.learning_rate"),
            "temperature": (config.dvae.gumbel_temperature, "config.dvae.gumbel_temperature"),
            "kl_weight": (config.dvae.kl_weight, "config.dvae.kl_weight"),
            "usage_weight": (config.dvae.usage_weight, "config.dvae.usage_weight"),
        }
        self.schedules = {n: parse_schedule(t, clock, key) for n, (t, key) in texts.items()}
        self.step = jax.jit(self._step, donate_argnums=0)

    def compile(self) -> None:
        """Nothing: this step is small, and compiles when it is called."""

    # ---------------------------------------------------------------- state

    def fresh(self) -> State:
        """The state at step 0."""
        size = self.dvae.image_size
        key = jax.random.key(self.config.seed)

        def make() -> State:
            params = self.module.init(key, jnp.zeros((1, size, size, 3)), key)["params"]
            return fresh_state(params, self.optimizer, {})

        shardings = state_shardings(self.mesh, jax.eval_shape(make))
        return jax.jit(make, out_shardings=shardings)()

    def initialised(self, state: State) -> State:
        """The fresh state as it is: no published weights start a dVAE."""
        return state

    def frozen(self) -> Params:
        """Nothing."""
        return {}

    def trees(self, state: State) -> dict[str, Any]:
        """The state as checkpoint items."""
        training = {"step": state.step, "skipped": state.skipped, "opt_state": state.opt_state}
        return {"tokenizer": state.params, "training": training}

    def restored(self, path: Path, like: State, sources: int) -> State:
        """The state of a checkpoint, placed like `like`; nothing in it is of a source."""
        items = {name: checkpoint.restore(path, name, t) for name, t in self.trees(like).items()}
        return State(params=items["tokenizer"], method={}, **items["training"])

    def facts(self) -> dict[str, Any]:
        """What using the tokenizer needs to know; `fit` turns true when the run has ended well."""
        return {
            "config": self.config.to_dict(),
            "dvae": dataclasses.asdict(self.dvae),
            "lineage": list(self.lineage),
            "fit": False,
        }

    # ---------------------------------------------------------------- steps

    def batches(self, segments: Sequence[Segment] = ()) -> grain.IterDataset[Batch]:
        """The same stream as retrieval's, without patch masks."""
        return training_batches(
            self.table,
            self.config.batch,
            self.config.seed,
            masked=0,
            patch_side=self.dvae.grid,
            rows=rows_of_process(self.mesh, self.config.batch),
            segments=segments,
            threads=self.config.data.threads,
        )

    def knobs(self, step: int) -> DvaeKnobs:
        """The scheduled numbers of `step`."""
        values = {name: np.float32(schedule(step)) for name, schedule in self.schedules.items()}
        return DvaeKnobs(seed=np.uint32(self.config.seed), **values)

    flops = None  # not counted: small beside what it is trained for

    def logged(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Adds the schedules, of the step that ends at `step`."""
        values = {name: float(schedule(step - 1)) for name, schedule in self.schedules.items()}
        return metrics | values

    def _step(
        self, state: State, frozen: Params, batch: Batch, knobs: DvaeKnobs
    ) -> tuple[State, dict[str, Array]]:
        step_key = jax.random.fold_in(jax.random.key(knobs.seed), state.step)
        noise_key, row_key = jax.random.split(step_key)
        keys = jax.random.split(row_key, batch.weight.shape[0])
        pixels = augment(keys, batch.image, self.augmentation, self.dvae.image_size)[:, 0]

        def loss(params: Params) -> tuple[Array, dict[str, Array]]:
            out = apply(self.module, params, pixels, noise_key, knobs.temperature)
            parts = elbo(
                pixels,
                out.reconstruction,
                out.logits,
                batch.weight,
                knobs.kl_weight,
                knobs.usage_weight,
            )
            pictures = jnp.maximum(parts.denominator, 1)
            total = parts.total / pictures
            return total, {
                "loss": total,
                "loss/divergence": parts.divergence / pictures,
                "loss/imbalance": parts.imbalance / pictures,
                "error": parts.error / pictures / pixels[0].size,
            }

        grads, metrics = jax.grad(loss, has_aux=True)(state.params)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        state = advance(state, grads, knobs.learning_rate, self.optimizer, finite)
        state = jax.lax.with_sharding_constraint(state, state_shardings(self.mesh, state))
        return state, metrics | {"gradient_norm": norm, "skipped": state.skipped}

    # ---------------------------------------------------------------- looking at it

    def evaluate(self, state: State) -> dict[str, float]:
        """Hard codes on held-out pictures: use of the codebook, error, and the error to beat."""
        return _named(self._qualities(state))

    def _qualities(self, state: State) -> dict[str, TokenizerQuality]:
        params = jax.device_put(fetch(state.params), jax.local_devices()[0])
        return {
            chosen.name: tokenizer_quality(self.dvae, params, image_batches(chosen.table, 64))
            for chosen in self.evaluation
        }

    def diagnose(self, state: State, batch: Batch, knobs: DvaeKnobs) -> dict[str, float]:
        """Nothing more."""
        return {}

    def finish(self, state: State) -> dict[str, Any]:
        """Refuses an unfit tokenizer (UserError), else marks it as fit with what was measured."""
        qualities = self._qualities(state)
        for quality in qualities.values():
            quality.check(self.dvae.codes)
        return {"fit": True, "measured": _named(qualities)}


def _named(qualities: dict[str, TokenizerQuality]) -> dict[str, float]:
    return {
        f"dvae/{name}/{key}": value
        for name, quality in qualities.items()
        for key, value in dataclasses.asdict(quality).items()
    }
