# SPDX-License-Identifier: Apache-2.0
"""Studies: statistics, what is found in finished runs, the page."""

import dataclasses
import json
import math
import sys
from html import escape

import numpy as np
import pytest
from doors import PROJECT
from finished import finish
from tiny_world import CONFIG, Tiny

from benchmarks.study import __main__ as study
from benchmarks.study.arms import Arm, Contrast, Ladder, Noise, Suite
from benchmarks.study.filter_quality import filter_quality, quality_by_rarity
from benchmarks.study.findings import RunRow, find
from benchmarks.study.noise import is_exchanged, noisy_copy
from benchmarks.study.page import write_page
from benchmarks.study.runs import Run, all_runs, carry_out
from benchmarks.study.statistics import paired, spread
from benchmarks.study.suites import SUITES
from benchmarks.study.words import in_words
from cots_jax.arguments import parse_arguments
from cots_jax.data.shuffle import shuffled
from cots_jax.errors import UserError


class TestStatistics:
    def test_a_paired_interval_by_hand(self):
        """Differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.302653."""
        found = paired([11, 12, 13], [10, 10, 10])
        half = 4.302652729911275 / math.sqrt(3)
        assert found.mean == pytest.approx(2)
        assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
        assert found.verdict == "no difference shown"
        assert paired([11, 12, 13.0], [1, 2, 3.5]).verdict == "better"
        assert paired([1, 2, 3.5], [11, 12, 13]).verdict == "worse"

    def test_one_seed_shows_nothing(self):
        found = paired([5], [1])
        assert (found.mean, found.low, found.high) == (4, -math.inf, math.inf)
        assert found.verdict == "no difference shown"

    def test_a_spread_is_of_the_sample(self):
        found = spread([1, 3])
        assert (found.mean, found.deviation, found.seeds) == (2, pytest.approx(math.sqrt(2)), 2)
        assert math.isnan(spread([1]).deviation)


ARM, OTHER = Arm("with", "configs/x.py", {"a": "1"}), Arm("without", "configs/x.py")
SUITE = Suite("toy", "A <toy>", (ARM, OTHER), (Contrast("with", "without"),))


def looked_at(run: Run, rsum: float) -> None:
    """As the last evaluation of its training."""
    with (run.folder / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 4, "recall/val/rsum": rsum}) + "\n")


class TestPlateaus:
    def found(self, folder, scores, reported):
        """One method at three lengths and another at two, two seeds each."""
        lengths = {"a1": 10, "a2": 20, "a3": 40, "b1": 10, "b2": 20}
        arms = tuple(Arm(n, "configs/x.py", {"duration": f"{s} steps"}) for n, s in lengths.items())
        ladders = Ladder("a", ("a1", "a2", "a3")), Ladder("b", ("b1", "b2"))
        suite = Suite("toy", "Toy", arms, (), ladders=ladders)
        runs = all_runs(suite, range(2), folder)
        for run in runs:
            finish(run, reported[run.arm.name] + run.seed)
            looked_at(run, scores[run.arm.name] + run.seed)
        return suite, runs, find(suite, runs)

    def test_the_length_is_chosen_where_it_is_not_reported(self, tmp_path):
        scores = {"a1": 10, "a2": 30, "a3": 20, "b1": 1, "b2": 2}
        reported = {"a1": 500, "a2": 100, "a3": 400, "b1": 80, "b2": 90}
        suite, runs, found = self.found(tmp_path, scores, reported)
        a, b = found.plateaus
        assert (a.best, a.reached) == ("a2", True)
        assert (b.best, b.reached) == ("b2", False)
        assert a.rungs[1].looked_at.mean == 30.5
        (contrast,) = found.contrasts
        assert (contrast.first, contrast.second) == ("a2", "b2")
        assert contrast.difference.mean == 10
        assert "nothing longer was tried" in in_words(found)
        write_page(tmp_path / "toy" / "index.html", suite, {}, found, runs)
        assert "rsum by steps" in (tmp_path / "toy" / "index.html").read_text()

    def test_a_plateau_that_is_compared_already_is_compared_once(self, tmp_path):
        same = dict.fromkeys(("a1", "a2", "a3", "b1", "b2"), 100)
        suite, runs, _ = self.found(tmp_path, {**same, "a2": 200, "b2": 200}, same)
        suite = dataclasses.replace(suite, contrasts=(Contrast("a2", "b2"),))
        assert len(find(suite, runs).contrasts) == 1

    def test_a_length_that_a_seed_lacks_is_compared_on_the_others(self, tmp_path):
        same = dict.fromkeys(("a1", "a2", "a3", "b1", "b2"), 100)
        suite, runs, _ = self.found(tmp_path, same, same)
        (runs[-3].folder / "results.json").unlink()  # a3 of the second seed
        assert [rung.looked_at.seeds for rung in find(suite, runs).plateaus[0].rungs] == [1, 1, 1]

    def test_a_length_that_an_earlier_study_has_counts(self, tmp_path):
        same = dict.fromkeys(("a1", "a2", "a3", "b1", "b2"), 100)
        suite, runs, whole = self.found(tmp_path, {**same, "a2": 300}, {**same, "a2": 300})
        made = [run for run in runs if run.arm.name != "a2"]
        taken = [row for row in whole.runs if row.run.startswith("a2-")]
        earlier = {("a2", row.seed): row for row in taken}
        assert find(suite, made, earlier).plateaus == whole.plateaus
        # Of another number of steps, as a measurement of another day may give it.
        command = taken[0].command.replace("=20 steps", "=24 steps")
        earlier["a2", 0] = dataclasses.replace(taken[0], command=command)
        assert find(suite, made, earlier).plateaus[0].rungs[1].steps == 22
        # One that was not evaluated on what is looked at here has no place on the ladder.
        for run in made:
            line = json.dumps({"step": 4, "recall/dev/rsum": 100})
            (run.folder / "metrics.jsonl").write_text(line + "\n")
        arms = [rung.arm for rung in find(suite, made, earlier).plateaus[0].rungs]
        assert arms == ["a1", "a3"]


def test_sets_that_belong_together_are_compared_by_their_mean_as_well(tmp_path):
    arms = (Arm("a", "configs/x.py", {}), Arm("b", "configs/x.py", {}))
    means = {"both": ("one", "two"), "more": ("one", "three")}
    suite = Suite("toy", "Toy", arms, (Contrast("a", "b"),), means=means)
    runs = all_runs(suite, range(2), tmp_path)
    rsums = {("a", 0): (10, 20), ("a", 1): (30, 50), ("b", 0): (10, 10), ("b", 1): (10, 20)}
    figures = ("image_to_text", "text_to_image", "rsum")
    earlier = {
        (run.arm.name, run.seed): RunRow(
            run.folder.name,
            run.seed,
            "",
            {},
            {
                name: dict.fromkeys(figures, float(rsum))
                for name, rsum in zip(("one", "two"), rsums[run.arm.name, run.seed], strict=True)
            },
        )
        for run in runs
    }
    found = find(suite, runs, earlier)
    (both,) = (row for row in found.contrasts if row.set == "both")
    assert both.difference.each == (5.0, 25.0)
    assert {row.set for row in found.contrasts} == {"one", "two", "both"}  # of three sets one lacks
    assert set(found.runs[0].results) == {"one", "two"}


def test_settings_are_ranked_within_what_they_were_tried_for(tmp_path):
    groups = {"x": ("one", {"lr": "1"}), "y": ("one", {"a.lr": "2"}), "z": ("two", {"q": "3"})}
    arms = tuple(Arm(n, "configs/x.py", keys, group=g) for n, (g, keys) in groups.items())
    suite = Suite("toy", "Toy", arms, ())
    runs = all_runs(suite, [0], tmp_path)
    for run, rsum in zip(runs, (100, 200, 50), strict=True):
        finish(run, rsum)
    found = find(suite, runs)
    assert [(s.group, s.arm) for s in found.settings] == [("one", "y"), ("one", "x"), ("two", "z")]
    assert "| one | y: lr 2 | 200.0 | 1 |" in in_words(found)


class TestFindings:
    @pytest.fixture
    def runs(self, tmp_path):
        runs = all_runs(SUITE, range(3), tmp_path)
        for run, rsum in zip(runs, (110, 100, 120, 100, 130, 100), strict=True):
            finish(run, rsum)
        return runs

    def test_arms_are_compared_seed_by_seed(self, runs):
        found = find(SUITE, runs)
        ((contrast,), rows) = found.contrasts, {row.arm: row for row in found.arms}
        assert contrast.difference.each == (10, 20, 30)
        assert rows["with"].figures["rsum"].mean == 120
        assert rows["without"].figures["image_to_text"].mean == pytest.approx(100 / 6)
        assert "| with - without | val | +20.0 | -4.8 to +44.8 | 3 |" in in_words(found)
        assert json.loads(json.dumps(found.to_json()))["contrasts"][0]["first"] == "with"

    def test_a_seed_that_one_arm_lacks_is_left_out(self, runs):
        (runs[3].folder / "results.json").unlink()
        (contrast,) = find(SUITE, runs).contrasts
        assert contrast.difference.each == (10, 30)

    def test_other_flags_are_another_run(self, runs):
        assert runs[0].done
        other = dataclasses.replace(ARM, keys={"a": "2"})
        assert not dataclasses.replace(runs[0], arm=other).done

    def test_the_page_links_every_figure_to_its_run(self, runs, tmp_path):
        page = tmp_path / "toy" / "index.html"
        write_page(page, SUITE, {"command": "python -m x"}, find(SUITE, runs), runs)
        text = page.read_text()
        assert "A &lt;toy&gt;" in text
        for run in runs:
            assert f'href="{run.folder.name}/results.json"' in text
            assert escape(run.command) in text
        for arm in SUITE.arms:
            assert text.count(f'id="runs-of-{arm.name}"') == 1
            # from the contrast, and from the table of each set
            assert text.count(f'href="#runs-of-{arm.name}"') == 2


class TestFilterQuality:
    def test_precision_and_recall_by_hand(self, pairs, tmp_path):
        noise = Noise(str(tmp_path / "noisy"), str(pairs), 0.25)
        noisy_copy(noise)
        wrong = is_exchanged(noise.folder, 48)
        run = tmp_path / "run"
        run.mkdir()
        config = {"data": {"train": f"{noise.folder}#train"}, "batch": 16, "seed": 3}
        (run / "config.json").write_text(json.dumps(config))
        (run / "metrics.jsonl").write_text('{"step": 3}\n{"step": 6}\n')
        # The first epoch is 3 steps: drop all wrong pairs of it and as many right ones.
        right = np.flatnonzero(~wrong)[: wrong.sum()]
        steps = shuffled(np.arange(48), 3, 48).argsort() // 16 + 1
        drops = [*np.flatnonzero(wrong), *right]
        lines = [json.dumps({"step": int(steps[pair]), "pair": int(pair)}) for pair in drops]
        (run / "dropped.jsonl").write_text("\n".join(lines) + "\n")
        first, second = filter_quality(run, windows=2)
        assert (first.step, first.precision, first.recall) == (3, 0.5, 1.0)
        assert first.clean_dropped == pytest.approx(12 / 36)
        parts = quality_by_rarity(run, share=1.0)
        assert sum(part.share for part in parts.values()) == pytest.approx(1)
        caught = sum(part.recall * part.share for part in parts.values() if part.share)
        assert caught == pytest.approx(0.5)  # each was seen twice and dropped once
        assert parts["1 or 2"].share == 0  # each pattern stands in several captions
        assert second.step == 6
        assert math.isnan(second.precision)
        assert (second.recall, second.clean_dropped) == (0, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--arms=noise20-filtre"],
            "no arm 'noise20-filtre' in suite noise; the nearest arms: noise20-filter",
        ),
        (["--seeds=0"], "--seeds and --jobs start at 1"),
    ],
)
def test_wrong_flags_start_nothing(flags, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "--suite=noise", *flags])
    with pytest.raises(SystemExit) as left:
        study.main()
    assert left.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_every_arm_builds_and_every_contrast_has_its_arms(suite, monkeypatch):
    monkeypatch.chdir(PROJECT)
    names = [arm.name for arm in suite.arms]
    assert len(set(names)) == len(names)
    for arm in (*suite.arms, *suite.quick().arms):
        assert parse_arguments(arm.flags(7), "").config.seed == 7
    for contrast in suite.contrasts:
        assert {contrast.first, contrast.second} <= set(names)


@pytest.mark.parametrize(
    ("suite", "name", "names", "steps"),
    [
        ("emoji", "full-32000", "long", 32000),
        ("emoji_on_clip", "clip-kl", "clip_kl,long", 14800),
        ("emoji_on_clip", "clip-full-fewer", "clip_full,long", 13280),
    ],
)
def test_the_demos_long_recipes_are_arms(suite, name, names, steps, monkeypatch):
    """So that what the study found of the one holds for the other. steps: of the arm's runs."""
    monkeypatch.chdir(PROJECT)
    flags = [*SUITES[suite].arm(name).flags(0), f"--config.duration={steps} steps"]
    arm = parse_arguments(flags, "").config
    own = parse_arguments([f"--config=configs/demo.py:{names}"], "").config
    how_often = {f"{what}_every": "100%" for what in ("evaluate", "diagnose", "checkpoint")}
    arm, own = (dataclasses.replace(one, name="", **how_often) for one in (arm, own))
    assert arm.to_dict() == own.to_dict()


@pytest.mark.slow
def test_runs_are_made_once_and_a_failure_is_named(tiny: Tiny, tmp_path, monkeypatch):
    copy = tiny.copy(tmp_path, "tiny-dvae")
    monkeypatch.chdir(copy.root)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    short = {"duration": "4 steps", "evaluate_every": "100%", "checkpoint_every": "100%"}
    arms = (Arm("a", f"{CONFIG}:contrastive", short), Arm("b", f"{CONFIG}:contrastive", {"x": "1"}))
    good, bad = all_runs(Suite("s", "S", arms, ()), [0], tmp_path / "out")
    with pytest.raises(UserError, match=r"1 runs failed, the first was .*b-seed0"):
        carry_out([good, bad], jobs=2)
    assert good.done
    assert not bad.done
    assert "unknown config key 'x'" in bad.beside(".log").read_text()
    made = (good.folder / "results.json").stat().st_mtime_ns
    carry_out([good], jobs=1)
    assert (good.folder / "results.json").stat().st_mtime_ns == made
    before = good.made
    carry_out([good], 1, "data/tiny#train")  # trained already, and evaluated on something else
    stored = json.loads((good.folder / "results.json").read_text())["results"]
    assert [result["name"] for result in stored] == ["train"]
    assert good.evaluated_on("data/tiny#train")
    assert not good.evaluated_on("")
    assert good.made["seconds"] > before["seconds"]
    assert {**good.made, **{key: before[key] for key in ("commands", "seconds")}} == before
