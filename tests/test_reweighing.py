# SPDX-License-Identifier: Apache-2.0
"""A run that goes on with other weights, and with more sources, than it was begun with."""

import pathlib
import shutil

import numpy as np
import pytest
from doors import Said, load_benchmark, run_main
from test_resume import StopAt, newest
from tiny_world import CONFIG, Tiny

from cots_jax import checkpoint

harness = load_benchmark("kill_harness")
BATCH = 16  # of configs/tiny.py
BEGUN, AFTER = "data/tiny#train", "data/tiny#train*3,data/tiny#val*50%"


def go(root: pathlib.Path, train: str, run: str = "run", stop: str | None = None) -> Said:
    flags = [f"--config={CONFIG}:contrastive", f"--workdir={run}", f"--config.data.train={train}"]
    said = run_main(root, *flags, stream=StopAt(stop) if stop else None)
    assert said.status == (75 if stop else 0), said.err
    return said


@pytest.fixture(scope="module")
def stopped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with data and a run of one source that was stopped soon after step 10."""
    root = tmp_path_factory.mktemp("reweighing")
    tiny.copy(root)
    go(root, BEGUN, stop="step 10/40")
    return root


def copy(stopped: pathlib.Path, name: str) -> pathlib.Path:
    shutil.copytree(stopped / "run", stopped / name)
    return stopped / name


@pytest.mark.slow
def test_a_run_goes_on_with_other_weights_and_one_more_source(stopped: pathlib.Path) -> None:
    changed = newest(stopped / "run").step
    whole = copy(stopped, "whole")
    said = go(stopped, AFTER, "whole")
    assert f"from step {changed} on, other weights: {AFTER}" in said.err
    end = newest(whole)
    kept = checkpoint.read_fact(end.path, "data")["segments"]
    assert kept == [[0, ["1"]], [BATCH * changed, ["3", "50%"]]]
    filter = checkpoint.restore(end.path, "method")["filter"]
    rows = (40 - changed) * BATCH
    assert filter["count"].sum() == 40 * BATCH
    assert abs(filter["count"][1] / rows - 0.5) < 0.2
    assert len(checkpoint.read_fact(end.path, "facts")["lineage"]) == 2
    # stopped within the second segment, and killed there: the newest checkpoint is one of before
    disturbed = copy(stopped, "disturbed")
    go(stopped, AFTER, "disturbed", stop="step 25/40")
    assert changed < newest(disturbed).step < 40
    shutil.rmtree(newest(disturbed).path)
    assert "other weights" not in go(stopped, AFTER, "disturbed").err
    found = harness.fingerprint(disturbed)
    assert found["step"] == "40"
    assert harness.differences(harness.fingerprint(whole), found) == []


@pytest.mark.slow
def test_a_change_that_is_none_moves_no_bit(stopped: pathlib.Path) -> None:
    """One source, whatever it weighs."""
    undisturbed = copy(stopped, "undisturbed")
    go(stopped, BEGUN, "undisturbed")
    assert checkpoint.read_fact(newest(undisturbed).path, "data")["segments"] == [[0, ["1"]]]
    again = copy(stopped, "again")
    go(stopped, f"{BEGUN}*4", "again")
    one, other = (checkpoint.restore(newest(run).path, "towers") for run in (undisturbed, again))
    np.testing.assert_array_equal(
        one["online"]["image"]["projection"]["kernel"],
        other["online"]["image"]["projection"]["kernel"],
    )


@pytest.mark.parametrize(
    "train", ["data/tiny#val", "data/tiny#val,data/tiny#train", "data/tiny#val,data/tiny#train*0"]
)
def test_other_sources_before_those_of_the_run_are_refused(tiny: Tiny, train: str) -> None:
    said = run_main(tiny.root, f"--config={CONFIG}", f"--config.data.train={train}")
    assert said.status == 1
    assert "was begun with config.data.train = 'data/tiny#train', and here is" in said.line
    assert "(FOLDER#SPLIT*0 leaves one out)" in said.line


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("data/tiny#train*20%", "add up to 20 %"),
        ("data/tiny#train*0", "all sources have the weight 0"),
        ("data/tiny#train*x", "the weight 'x' is no number"),
        ("data/tiny#train,data/none#train", "there is no folder data/none"),
    ],
)
def test_weights_that_make_no_sense_are_one_line(tiny: Tiny, train: str, words: str) -> None:
    said = run_main(tiny.root, f"--config={CONFIG}", f"--config.data.train={train}")
    assert said.status == 1
    assert words in said.line


@pytest.mark.slow
def test_a_finished_run_stays_finished_whatever_is_added(tiny: Tiny, tmp_path) -> None:
    """An epoch, and so the duration, stays what it was when the run began."""
    copied = tiny.copy(tmp_path, "tiny", "tiny-dvae")
    flags = ["--config.data.train=data/tiny#train,data/tiny#val", "--config.log_every=1 epochs"]
    said = run_main(copied.root, f"--config={CONFIG}", *flags)
    assert said.status == 0, said.err
    assert "is trained to step 40 of 40: nothing to do" in said.err
