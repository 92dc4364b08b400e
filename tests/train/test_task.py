# SPDX-License-Identifier: Apache-2.0
"""What a config says reaches the step, the stream of batches and the evaluation of a COTS run."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from cots_jax import checkpoint
from cots_jax.config import build_config
from cots_jax.data.mixture import Segment
from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.data.weights import ONCE
from cots_jax.errors import UserError
from cots_jax.image_tokenizer import ImageTokenizer
from cots_jax.models.dvae import DvaeConfig
from cots_jax.objectives.momentum_filter import FilterState
from cots_jax.pretrained import CHECKPOINTS, Pretrained
from cots_jax.retrieval.evaluation import Lineage
from cots_jax.schedule import Clockwork
from cots_jax.schema import HardwareConfig
from cots_jax.switches import Towers
from cots_jax.train import cots
from cots_jax.train.mesh import make_mesh
from cots_jax.train.state import State

AUGMENTED = {
    "shift": 0.1,
    "scale": 0.2,
    "crop": (0.3, 0.9),
    "brightness": 0.15,
    "contrast": 0.25,
    "saturation": 0.35,
    "hue": 0.05,
    "jitter_probability": 0.7,
    "grey_probability": 0.45,
    "flip_probability": 0.5,
    "fill": 0.6,
    "word_dropout": 0.12,
}


DATA = {"train": "a#train", "eval": "a#val", "text_length": 8, "threads": 3}


class Table(PairTable):
    """Two sources and no rows; nothing was made ahead of time."""

    def __init__(self):
        self.sources = (Source("data/x", "train"), Source("data/y", "train"))
        self.token_facts = None


def task(**changes) -> cots.CotsTask:
    smallest = {
        "name": "x",
        "data": DATA,
        "model": "tiny-16",
        "duration": "10 steps",
        "batch": 16,
        "seed": 5,
    }
    return cots.CotsTask(
        build_config(smallest | changes),
        Clockwork(16, 48, 10),
        make_mesh(HardwareConfig()),
        Table(),
        train_wordpiece(["bars over rings", "rings over bars"], 40),
        ImageTokenizer(DvaeConfig(16, 8, codes=16), {}, ()),
        [],
        Lineage(()),
    )


def step_of(**changes):
    return task(**changes).step.__wrapped__


def test_the_step_takes_its_pieces_from_the_hardware():
    plain, cut = step_of(), step_of(hardware={"accumulate": 2, "tokenizer_pieces": 4})
    assert (plain.accumulate, plain.tokenizer_pieces) == (1, 1)
    assert (cut.accumulate, cut.tokenizer_pieces) == (2, 4)


def test_every_setting_of_the_augmentation_reaches_the_step():
    found = dataclasses.asdict(step_of(augmentation=AUGMENTED).augmentation)
    assert {name: found[name] for name in AUGMENTED} == AUGMENTED
    plain = dataclasses.asdict(step_of().augmentation)
    assert not [name for name in AUGMENTED if plain[name] == found[name]]


def test_the_optimizer_is_made_of_the_config(monkeypatch):
    seen, make = [], cots.make_optimizer
    monkeypatch.setattr(cots, "make_optimizer", lambda config: seen.append(config) or make(config))
    given = task(optimizer={"layer_decay": 0.5, "freeze_text": 1, "decayed": "all", "b1": 0.5})
    assert seen == [given.config.optimizer]


@pytest.mark.parametrize("unit", ["token", "word"])
def test_the_unit_of_masked_texts(unit):
    made = task(method={"masked": {"text_unit": unit}})
    pieces = np.flatnonzero(made.tokenizer.is_continuation)
    assert len(pieces)
    assert made.step.__wrapped__.masking.continues == (tuple(pieces) if unit == "word" else ())


def test_a_fresh_state_has_the_queue_and_the_temperature_that_were_asked_for():
    def fresh(**method):
        step = step_of(method=method)
        keys = jax.random.split(jax.random.key(0), 2)
        return jax.eval_shape(lambda keys: step.fresh(keys, 2), keys)

    learned = fresh(queue_length=24, temperature_rule="learned", column_chunk=10)
    assert learned.method.queue.valid.shape == (30,)  # a whole number of chunks
    assert learned.params["heads"]["log_temperature"].shape == ()
    fixed = fresh(queue_length=24)
    assert fixed.method.queue.valid.shape == (24,)
    assert set(fixed.params["heads"]) == {"mvm", "mlm"}


def test_a_start_looks_for_all_that_is_learned_beside_the_towers(monkeypatch):
    looked_for = []
    monkeypatch.setattr(cots, "read_initial", lambda named, size, like: looked_for.append(like))
    config = {"init_from": {"run": "x"}, "data": {**DATA, "tokenizer": "init_from"}}
    method = {"contrast": "sigmoid", "queue_length": 0, "filter": {"state": "off"}}
    method |= {"temperature_rule": "learned", "weight_task": "0"}
    _ = task(**config, method=method).initial
    beside = {"mvm", "mlm", "log_temperature", "sigmoid_bias"}
    assert looked_for[0]["heads"].keys() == beside


def test_what_is_logged_is_of_the_step_that_was_made():
    made = task(
        optimizer={"learning_rate": "1 @ 0%, 0 @ 100%"}, method={"weight_task": "0 @ 50%, 1 @ 50%"}
    )
    for step in (1, 5, 6, 7, 10):
        used, logged = made.knobs(step - 1), made.logged(step, {"columns": 8.0})
        assert logged["learning_rate"] == pytest.approx(float(used.learning_rate))
        assert logged["weight/task"] == float(used.weights.task)


def test_a_run_that_compares_its_batch_with_itself_is_restored_whole(tmp_path):
    method = {"contrast": "sigmoid", "queue_length": 0, "filter": {"state": "off"}}
    made = task(method=method | {"weight_task": "0"})
    state = made.fresh()
    assert state.method == {}
    trees = made.trees(state)
    assert trees.keys() == {"towers", "heads", "training"}
    assert trees["towers"].keys() == {"online"}
    path = checkpoint.save(tmp_path, 3, trees, {}, keep=checkpoint.Keep(1))
    found = made.restored(path, made.fresh(), 2)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found.params, state.params)


def test_a_source_that_came_since_has_an_empty_filter(tmp_path):
    made = task(method={"queue_length": 24})
    state = made.fresh()
    known = FilterState(*(np.array([value], np.float32) for value in (64, 0.5, 0.3)))
    trees = made.trees(state)
    trees["method"]["filter"] = known
    path = checkpoint.save(tmp_path, 3, trees, {}, keep=checkpoint.Keep(1))
    found = made.restored(path, state, 1)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for name in ("count", "mean", "mean_square"):
        array, like = getattr(found.method.filter, name), getattr(state.method.filter, name)
        assert array.tolist() == [getattr(known, name)[0], 0]
        assert (array.dtype, array.sharding) == (like.dtype, like.sharding)
    with pytest.raises(UserError, match="does not fit this model"):
        made.restored(path, state, 2)


class AskedError(Exception):
    """Stands for a stream that there are no rows for."""


def test_the_stream_of_batches_is_that_of_the_config(monkeypatch):
    seen = {}

    def batches(table, batch, seed, **more):
        seen.update(more, batch=batch, seed=seed)
        raise AskedError

    monkeypatch.setattr(cots, "training_batches", batches)
    with pytest.raises(AskedError):
        task(method={"masked": {"image_ratio": 0.75}}).batches([Segment(0, (ONCE,))])
    assert seen.pop("segments") == [Segment(0, (ONCE,))]
    np.testing.assert_array_equal(seen.pop("rows"), np.arange(16))
    assert seen == {"batch": 16, "seed": 5, "masked": 3, "patch_side": 2, "threads": 3}


@pytest.mark.parametrize("which", list(Towers))
def test_the_loop_evaluates_the_towers_that_were_asked_for(which, monkeypatch):
    seen = []

    def evaluate(towers, model, preprocessing, chosen, lineage):
        seen.append((float(towers["x"]), lineage.towers))
        return types.SimpleNamespace(result=None)

    monkeypatch.setattr(cots, "evaluate_set", evaluate)
    monkeypatch.setattr(cots, "flat", lambda result: {"recall": 1.0})
    made = task(evaluation_towers=which)
    made.evaluation = ["a set"]
    method = types.SimpleNamespace(momentum_params={"x": np.float32(2)})
    state = State(0, 0, {"towers": {"x": np.float32(1)}}, None, method)
    assert made.evaluate(state) == {"recall": 1.0}
    assert seen == [(1.0 if which is Towers.ONLINE else 2.0, str(which))]


@pytest.mark.parametrize("which", list(Towers))
@pytest.mark.parametrize("rule", ["fixed", "learned"])
def test_a_finished_run_is_opened_as_its_config_says(which, rule, tmp_path):
    made = task(evaluation_towers=which, method={"temperature": 0.2, "temperature_rule": rule})
    trees = {
        "towers": {name: {"x": np.float32(place)} for place, name in enumerate(Towers)},
        "heads": {"log_temperature": np.log(np.float32(0.3))},
    }
    keep = checkpoint.Keep(1)
    checkpoint.save(tmp_path / CHECKPOINTS, 3, trees, {"facts": made.facts()}, keep=keep)
    opened = Pretrained.load(tmp_path)
    assert opened.towers["x"] == list(Towers).index(which)
    assert opened.lineage.towers == str(which)
    assert opened.temperature() == pytest.approx(0.3 if rule == "learned" else 0.2)
