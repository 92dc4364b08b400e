# SPDX-License-Identifier: Apache-2.0
"""The best towers of a run: kept, not forgotten, not written twice; a word when it gets worse."""

import pytest

from cots_jax import checkpoint
from cots_jax.train.best import Best


class Run:
    """A run whose towers are the number of its step."""

    def __init__(self, workdir):
        self.workdir = workdir
        self.best = Best(workdir)

    def at(self, step, *sums):
        recall = {f"recall/set{place}/rsum": float(value) for place, value in enumerate(sums)}
        trees = {"towers": {"online": {"x": step}}, "heads": {}, "training": {"step": step}}
        return self.best.consider(step, recall | {"recall/set0/r1": 99.0}, trees, {"a": 1})

    def kept(self):
        found = checkpoint.latest(self.workdir / checkpoint.BEST)
        towers = checkpoint.restore(found.path, "towers")
        return found.step, int(towers["online"]["x"]), checkpoint.read_fact(found.path, "facts")


def test_the_best_of_the_mean_is_kept(tmp_path):
    run = Run(tmp_path)
    for step, sums in ((1, (100, 300)), (2, (310, 100)), (3, (100, 300))):
        assert run.at(step, *sums) == ""
    step, towers, facts = run.kept()
    assert (step, towers) == (2, 2)
    assert facts == {"a": 1, "step": 2, "rsum": 205.0}
    assert [path.name for path in (tmp_path / checkpoint.BEST).iterdir()] == ["2"]


def test_a_run_that_goes_on_knows_it_and_does_not_write_it_again(tmp_path):
    Run(tmp_path).at(5, 200)
    again = Run(tmp_path)
    assert (again.best.step, again.best.rsum) == (5, 200)
    written = (tmp_path / checkpoint.BEST / "5").stat().st_mtime_ns
    again.at(4, 150)
    again.at(5, 200)
    assert (tmp_path / checkpoint.BEST / "5").stat().st_mtime_ns == written
    again.at(6, 201)
    assert again.kept()[0] == 6


def test_a_fall_is_said_with_the_way_back(tmp_path):
    run = Run(tmp_path)
    run.at(1, 200)
    assert run.at(2, 195) == ""  # within the noise
    said = run.at(3, 190)
    assert "fallen to 190.0 from 200.0 at step 1" in said
    assert str(tmp_path / checkpoint.BEST) in said


@pytest.mark.parametrize("recall", [{}, {"dvae/val/error": 1.0}])
def test_without_recall_there_is_nothing_to_keep(tmp_path, recall):
    best = Best(tmp_path)
    assert best.consider(1, recall, {}, {}) == ""
    assert not (tmp_path / checkpoint.BEST).exists()
