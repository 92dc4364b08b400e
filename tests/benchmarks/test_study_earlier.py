# SPDX-License-Identifier: Apache-2.0
"""Runs that a study takes from an earlier one in the place of making them again."""

import dataclasses
import json
import pathlib
import shlex

import pytest
from finished import finish

from benchmarks.study.arms import Arm, Contrast, Suite
from benchmarks.study.earlier import earlier_runs
from benchmarks.study.findings import find
from benchmarks.study.page import write_page
from benchmarks.study.runs import all_runs
from benchmarks.study.suites import SUITES
from cots_jax.errors import UserError


class TestEarlier:
    """An arm, and one that was given its time; both run before with one seed."""

    ARMS = (
        Arm("a", "configs/x.py", {"duration": "8 steps"}),
        Arm("b", "configs/y.py", {"duration": "9 steps"}, as_long_as="a"),
    )
    SUITE = Suite("late", "Late", ARMS, (Contrast("a", "b"),))

    def stored(self, folder, suite=SUITE):
        """The study.json of a study in another folder."""
        runs = all_runs(suite, [0], folder / "before")
        for run, rsum in zip(runs, (50, 40), strict=True):
            finish(run, rsum)
        file = folder / "study.json"
        file.write_text(json.dumps(find(suite, runs).to_json()))
        return str(file)

    def test_their_results_count_and_their_commands_stay(self, tmp_path):
        runs = all_runs(self.SUITE, range(2), tmp_path / "now")
        earlier = earlier_runs([self.stored(tmp_path)], runs)
        assert sorted(earlier) == [("a", 0), ("b", 0)]
        here = [run for run in runs if run.seed == 1]
        for run, rsum in zip(here, (70, 40), strict=True):
            finish(run, rsum)
        found = find(self.SUITE, here, earlier)
        assert found.contrasts[0].difference.each == (10, 30)
        assert [row.run for row in found.runs] == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]
        assert f"--workdir={tmp_path}/before/late/a-seed0" in found.runs[0].command
        write_page(tmp_path / "index.html", self.SUITE, {}, found, here)
        assert (tmp_path / "index.html").read_text().count("of an earlier study") == 2

    def test_commands_are_for_a_shell_and_those_that_were_not_count_too(self, tmp_path):
        file = pathlib.Path(self.stored(tmp_path))
        runs = all_runs(self.SUITE, [0], tmp_path / "now")
        stored = json.loads(file.read_text())
        for row, run in zip(stored["runs"], all_runs(self.SUITE, [0], tmp_path / "before")):
            assert shlex.split(row["command"]) == ["python", "-m", *run.training]
            row["command"] = " ".join(shlex.split(row["command"]))
        file.write_text(json.dumps(stored))
        assert sorted(earlier_runs([str(file)], runs)) == [("a", 0), ("b", 0)]

    def test_what_other_flags_made_is_made_again(self, tmp_path):
        file = self.stored(tmp_path)
        longer = [dataclasses.replace(arm, keys={"duration": "10 steps"}) for arm in self.ARMS]
        runs = all_runs(dataclasses.replace(self.SUITE, arms=tuple(longer)), [0], tmp_path / "now")
        # The second one's steps are what its day measured; those of the first are the study's.
        assert sorted(earlier_runs([file], runs)) == [("b", 0)]
        other = [dataclasses.replace(arm, config="configs/z.py") for arm in self.ARMS]
        runs = all_runs(dataclasses.replace(self.SUITE, arms=tuple(other)), [0], tmp_path / "now")
        assert earlier_runs([file], runs) == {}

    def test_only_the_sets_that_are_evaluated_on_are_taken(self, tmp_path):
        runs = all_runs(self.SUITE, range(1), tmp_path / "now")
        stored = pathlib.Path(self.stored(tmp_path))
        content = json.loads(stored.read_text())
        for row in content["runs"]:
            row["results"]["reported"] = {"rsum": 1.0}
        stored.write_text(json.dumps(content))
        found = earlier_runs([str(stored)], runs)
        assert {frozenset(row.results) for row in found.values()} == {
            frozenset({"val", "reported"})
        }
        found = earlier_runs([str(stored)], runs, "data/emoji#val,data/emoji#other")
        assert {frozenset(row.results) for row in found.values()} == {frozenset({"val"})}

    def test_remedies_take_what_they_are_held_against_from_the_suite_emoji(self, tmp_path):
        remedies, emoji = SUITES["emoji_remedies"], SUITES["emoji"]
        for name in ("full-16000", "contrastive-16000"):
            assert remedies.arm(name) == emoji.arm(name)
        file = pathlib.Path(__file__).parents[2] / "docs" / "study" / "emoji_long.json"
        runs = all_runs(remedies, range(5), tmp_path)
        found = earlier_runs([str(file)], runs, remedies.data)
        assert sorted({arm for arm, _ in found}) == ["contrastive-16000", "full-16000"]
        assert len(found) == 10
        sets = {name for row in found.values() for name in row.results}
        assert sets
        assert all(name.startswith("emoji_dev_") for name in sets)

    def test_runs_of_other_sets_are_said(self, tmp_path):
        runs = all_runs(self.SUITE, range(2), tmp_path / "now")
        earlier = earlier_runs([self.stored(tmp_path)], runs)
        other = dataclasses.replace(earlier["a", 0], results={"test": {"rsum": 1.0}})
        with pytest.raises(UserError, match="a of seed 0 was not evaluated on val, which others"):
            find(self.SUITE, [], earlier | {("a", 0): other})

    @pytest.mark.parametrize("text", ["", "{}", '{"runs": [{"run": "a-seed0"}]}'])
    def test_another_file_is_said(self, tmp_path, text):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match=r"is no study\.json of"):
            earlier_runs([str(tmp_path / "x.json")], [])
        with pytest.raises(UserError, match=r"is no study\.json of"):
            earlier_runs([str(tmp_path / "missing.json")], [])
