# SPDX-License-Identifier: Apache-2.0
"""A run of ours as the start of another: towers, fitting heads, another grid, refusals."""

import dataclasses

import jax
import numpy as np
import pytest

from cots_jax import checkpoint
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.errors import UserError
from cots_jax.models.transformer import Activation
from cots_jax.models.two_stream import TwoStream, TwoStreamConfig, model_size
from cots_jax.schema import HardwareConfig, InitConfig, MaskedConfig
from cots_jax.switches import FrameMean
from cots_jax.weights.architecture import architecture
from cots_jax.weights.load import read_initial
from cots_jax.weights.own import read_origin
from cots_jax.weights.positions import Resize, resized_positions

TOKENIZER = train_wordpiece(["bars over rings", "rings over bars"], 40)
SIZE = model_size("tiny-16", HardwareConfig(), TOKENIZER.vocab_size)
CODES = 16


def model(size=SIZE, codes=CODES):
    return TwoStream(size, MaskedConfig(), codes, frozenset({"mvm", "mlm"}))


def shapes(of):
    key = jax.random.key(0)
    return {
        "towers": jax.eval_shape(of.init_towers, key),
        "heads": jax.eval_shape(of.init_heads, key),
    }


def drawn(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


@pytest.fixture
def run(tmp_path):
    """(folder, its trees): online and momentum towers differ."""
    like = shapes(model())
    trees = {
        "towers": {"online": drawn(like["towers"], 0), "momentum": drawn(like["towers"], 1)},
        "heads": drawn(like["heads"], 2),
    }
    config = {"evaluation_towers": "momentum", "model": "tiny-16"}
    facts = {"config": config, "tokenizer": TOKENIZER.to_json()}
    facts |= {"architecture": architecture(SIZE)}
    facts |= {"preprocessing": {"mean": SIZE.vision.mean, "std": SIZE.vision.std}}
    facts |= {"lineage": ["web#train (1)"], "fine_tuned_on": ["own#train (2)"]}
    folder = tmp_path / "before"
    save = {"trees": trees, "facts": {"facts": facts}, "keep": checkpoint.Keep(1)}
    checkpoint.save(folder / checkpoint.FOLDER, 7, **save)
    return folder, trees


def read(folder, of=None):
    of = of or model()
    return read_initial(InitConfig(run=str(folder)), of.config, shapes(of))


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_towers_that_it_evaluates_with_and_its_heads(run):
    folder, trees = run
    assert_equal(read(folder), {"towers": trees["towers"]["momentum"], "heads": trees["heads"]})


def test_the_best_towers_where_it_kept_them(run):
    folder, trees = run
    best = {"towers": {"momentum": trees["towers"]["online"]}, "heads": trees["heads"]}
    facts = checkpoint.read_fact(folder / checkpoint.FOLDER / "7", "facts")
    checkpoint.save(folder / checkpoint.BEST, 3, best, {"facts": facts}, keep=checkpoint.Keep(1))
    assert_equal(read(folder)["towers"], trees["towers"]["online"])


def test_a_head_of_another_shape_starts_afresh(run):
    folder, trees = run
    found = read(folder, model(codes=32))
    assert_equal(found["heads"], {"mlm": trees["heads"]["mlm"]})


def test_a_learned_temperature_goes_on(run):
    folder, trees = run
    trees["heads"]["log_temperature"] = np.float32(-4.3)
    facts = checkpoint.read_fact(folder / checkpoint.FOLDER / "7", "facts")
    keep = checkpoint.Keep(1)
    checkpoint.save(folder / checkpoint.FOLDER, 8, trees, {"facts": facts}, keep=keep)
    assert "log_temperature" not in read(folder)["heads"]  # of a run that learns none
    like = shapes(model())
    like["heads"]["log_temperature"] = jax.ShapeDtypeStruct((), np.float32)
    found = read_initial(InitConfig(run=str(folder)), SIZE, like)
    assert found["heads"]["log_temperature"] == np.float32(-4.3)


def test_positions_are_resized_to_another_resolution(run):
    folder, trees = run
    vision = dataclasses.replace(SIZE.vision, image_size=32)
    found = read(folder, model(TwoStreamConfig(vision, SIZE.text)))
    table = trees["towers"]["momentum"]["image"]["position_embedding"]
    wanted = resized_positions(table, 4, Resize.BICUBIC)
    np.testing.assert_array_equal(found["towers"]["image"]["position_embedding"], wanted)


def test_what_it_was_trained_on_and_its_words(run):
    origin = read_origin(str(run[0]))
    assert origin.trained_on == ("web#train (1)",)
    assert origin.fine_tuned_on == ("own#train (2)",)
    assert origin.started_from == ()
    assert origin.tokenizer.to_json() == TOKENIZER.to_json()


def test_other_towers_are_refused_with_what_differs(run):
    stack = dataclasses.replace(SIZE.vision.transformer, width=64)
    wide = TwoStreamConfig(dataclasses.replace(SIZE.vision, transformer=stack), SIZE.text)
    with pytest.raises(UserError, match=r"holds model tiny-16.* there, .* here"):
        read(run[0], model(wide))


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_towers_of_the_same_shape_that_compute_otherwise_are_refused(run, tower):
    old = getattr(SIZE, tower)
    stack = dataclasses.replace(old.transformer, activation=Activation.QUICK_GELU)
    size = dataclasses.replace(SIZE, **{tower: dataclasses.replace(old, transformer=stack)})
    said = f"{tower}/transformer/activation 'gelu' there, 'quick_gelu' here"
    with pytest.raises(UserError, match=f"compute otherwise than config.model: {said}"):
        read(run[0], model(size))


def test_another_start_of_the_same_towers_is_no_difference(run):
    stack = dataclasses.replace(SIZE.vision.transformer, init_std=0.3)
    vision = dataclasses.replace(SIZE.vision, transformer=stack, frame_mean=FrameMean.CLS)
    assert read(run[0], model(TwoStreamConfig(vision, SIZE.text)))


def test_other_colours_are_refused_with_the_remedy(run):
    vision = dataclasses.replace(SIZE.vision, mean=(0.4, 0.5, 0.5))
    with pytest.raises(UserError, match=r"set config\.image_mean=0\.5,0\.5,0\.5 and"):
        read(run[0], model(TwoStreamConfig(vision, SIZE.text)))


def test_other_words_are_refused_with_the_remedy(run):
    text = dataclasses.replace(SIZE.text, vocabulary=99)
    with pytest.raises(UserError, match=r"has 99: set config\.data\.tokenizer=init_from"):
        read(run[0], model(TwoStreamConfig(SIZE.vision, text)))


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_a_run_is_refused(name, tmp_path):
    said = r"config\.init_from\.run = .*(holds no good checkpoint|there is no training folder)"
    with pytest.raises(UserError, match=said):
        read(tmp_path / name)
