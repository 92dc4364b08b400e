# SPDX-License-Identifier: Apache-2.0
"""What a suite's runs found: recalls of each arm over seeds, and paired differences."""

import dataclasses
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.study.arms import Contrast, Ladder, Suite
from benchmarks.study.filter_quality import (
    Part,
    Window,
    filter_quality,
    quality_by_rarity,
)
from benchmarks.study.runs import Run
from benchmarks.study.statistics import Difference, Spread, paired, spread
from cots_jax.errors import UserError

DURATION = re.compile(r"--config\.duration=(\d+) steps")
FIGURES = ("image_to_text", "text_to_image", "rsum")  # R@1 both ways and the sum of six recalls


@dataclasses.dataclass(frozen=True)
class ArmRow:
    """One arm on one set."""

    arm: str
    set: str
    figures: dict[str, Spread]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One of the settings that were tried for the same thing: mean rsum over the sets."""

    group: str
    arm: str
    keys: Mapping[str, str]
    rsum: Spread


@dataclasses.dataclass(frozen=True)
class ContrastRow:
    """The difference in rsum of two arms on one set."""

    first: str
    second: str
    set: str
    difference: Difference


@dataclasses.dataclass(frozen=True)
class FilterRow:
    """The filter of one run over time."""

    run: str
    windows: tuple[Window, ...]
    rarity: dict[str, Part]


@dataclasses.dataclass(frozen=True)
class Rung:
    """One length of a ladder: rsum on the sets looked at in training, mean over them."""

    arm: str
    steps: float  # mean over seeds: what takes an equal time was measured anew on another day
    looked_at: Spread


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Where a method is best when it is trained for longer and longer."""

    method: str
    rungs: tuple[Rung, ...]
    best: str  # the arm
    reached: bool  # whether something longer was tried and was no better


@dataclasses.dataclass(frozen=True)
class RunRow:
    """One run: what made it and what it found."""

    run: str
    seed: int
    command: str
    made: Mapping[str, Any]
    results: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Findings:
    """All of it."""

    arms: tuple[ArmRow, ...]
    contrasts: tuple[ContrastRow, ...]
    filters: tuple[FilterRow, ...]
    plateaus: tuple[Plateau, ...]
    settings: tuple[Setting, ...]  # of each group the best first
    runs: tuple[RunRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, NaN and infinities as None."""
        return _plain(dataclasses.asdict(self))


def find(
    suite: Suite, runs: Sequence[Run], earlier: Mapping[tuple[str, int], RunRow] | None = None
) -> Findings:
    """Reads the results of finished runs; a contrast takes the seeds that both arms have.

    earlier: runs that an earlier study made, by arm and seed. Of these the results alone are known,
    so that they are no part of the filter's quality, and of plateaus where they have the sets that
    this study's runs were looked at on.
    Raises UserError where runs were evaluated on different sets.
    """
    results = {key: dict(row.results) for key, row in (earlier or {}).items()}
    results |= {(run.arm.name, run.seed): _results(run) for run in runs if run.done}
    sets = list(dict.fromkeys(name for found in results.values() for name in found))
    for (arm, seed), one in results.items():
        if set(one) != set(sets):
            lacking = ", ".join(name for name in sets if name not in one)
            raise UserError(
                f"{arm} of seed {seed} was not evaluated on {lacking}, which others were: give the "
                "same --data, and of --earlier studies only those of these sets"
            )
    of_runs = dict(results)
    results = {key: one | _means(suite, one) for key, one in results.items()}
    sets = list(dict.fromkeys(name for found in results.values() for name in found))
    arms = []
    for arm in suite.arms:
        of = [found for (name, _), found in sorted(results.items()) if name == arm.name]
        for name in sets if of else ():
            figures = {key: spread([found[name][key] for found in of]) for key in FIGURES}
            arms.append(ArmRow(arm.name, name, figures))
    scores = _scores(runs, earlier or {})
    plateaus = tuple(
        found for ladder in suite.ladders if (found := _plateau(ladder, scores)) is not None
    )
    contrasts = []
    for contrast in dict.fromkeys((*suite.contrasts, *_between(plateaus))):
        seeds = sorted(
            seed
            for (name, seed) in results
            if name == contrast.first and (contrast.second, seed) in results
        )
        for name in sets if seeds else ():
            first = [results[contrast.first, seed][name]["rsum"] for seed in seeds]
            second = [results[contrast.second, seed][name]["rsum"] for seed in seeds]
            contrasts.append(
                ContrastRow(contrast.first, contrast.second, name, paired(first, second))
            )
    noisy = {f"{noise.folder}#train" for noise in suite.noise}
    filters = [
        FilterRow(
            run.folder.name,
            tuple(filter_quality(run.folder)),
            quality_by_rarity(run.folder),
        )
        for run in runs
        if run.done
        and run.arm.keys.get("method.filter.list_dropped") == "on"
        and run.arm.keys.get("data.train") in noisy
    ]
    rows = (*(earlier or {}).values(),) + tuple(
        RunRow(
            run.folder.name,
            run.seed,
            run.command,
            {key: value for key, value in run.made.items() if key != "commands"},
            of_runs[run.arm.name, run.seed],
        )
        for run in runs
        if run.done
    )
    settings = _ranked(suite, of_runs)
    return Findings(tuple(arms), tuple(contrasts), tuple(filters), plateaus, settings, rows)


def _means(suite: Suite, found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What several sets say together, which seeds change less than any one of them."""
    return {
        name: {key: float(np.mean([found[one][key] for one in sets])) for key in FIGURES}
        for name, sets in suite.means.items()
        if set(sets) <= set(found)
    }


def _ranked(suite: Suite, results: Mapping[tuple[str, int], Any]) -> tuple[Setting, ...]:
    found = []
    for arm in suite.arms:
        of = [sets for (name, _), sets in sorted(results.items()) if name == arm.name]
        if arm.group and of:
            means = [float(np.mean([row["rsum"] for row in sets.values()])) for sets in of]
            found.append(Setting(arm.group, arm.name, arm.keys, spread(means)))
    groups = list(dict.fromkeys(setting.group for setting in found))
    return tuple(sorted(found, key=lambda s: (groups.index(s.group), -s.rsum.mean)))


def _scores(
    runs: Sequence[Run], earlier: Mapping[tuple[str, int], RunRow]
) -> dict[tuple[str, int], tuple[int, float]]:
    """Steps of each run, and its mean rsum on the sets that are looked at during training."""
    made = [run for run in runs if run.done]
    of = {(run.arm.name, run.seed): _looked_at(run) for run in made}
    commands = {(run.arm.name, run.seed): run.command for run in made}
    sets = {name for found in of.values() for name in found}
    for key, row in earlier.items():
        if sets <= set(row.results):
            of[key] = {name: row.results[name]["rsum"] for name in sets}
            commands[key] = row.command
    steps = {key: DURATION.search(unquoted(command)) for key, command in commands.items()}
    return {
        key: (int(found.group(1)), float(np.mean(list(of[key].values()))))
        for key, found in steps.items()
        if found and of[key]
    }


def unquoted(command: str) -> str:
    """A shell's words with spaces between, as studies before 2026-11-30 stored their commands."""
    return " ".join(shlex.split(command))


def _plateau(ladder: Ladder, scores: Mapping[tuple[str, int], tuple[int, float]]) -> Plateau | None:
    """Over the seeds that all lengths have which any seed has."""
    of = {key: found for key, found in scores.items() if key[0] in ladder.arms}
    lengths = [name for name in ladder.arms if any(arm == name for arm, _ in of)]
    seeds = sorted({seed for _, seed in of if all((name, seed) in of for name in lengths)})
    if not seeds:
        return None
    rungs = tuple(
        Rung(
            name,
            float(np.mean([of[name, seed][0] for seed in seeds])),
            spread([of[name, seed][1] for seed in seeds]),
        )
        for name in lengths
    )
    best = max(rungs, key=lambda rung: rung.looked_at.mean)
    return Plateau(ladder.method, rungs, best.arm, best is not rungs[-1])


def _between(plateaus: Sequence[Plateau]) -> list[Contrast]:
    """The first method's plateau against each of the others'."""
    return [Contrast(plateaus[0].best, other.best) for other in plateaus[1:]]


def _looked_at(run: Run) -> dict[str, float]:
    """rsum of the run's last evaluation during training, by set."""
    sets: dict[str, float] = {}
    with (run.folder / "metrics.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            for key, value in json.loads(line).items():
                if key.startswith("recall/") and key.endswith("/rsum"):
                    sets[key.removeprefix("recall/").removesuffix("/rsum")] = value
    return sets


def _results(run: Run) -> dict[str, dict[str, float]]:
    stored = json.loads((run.folder / "results.json").read_text("utf-8"))["results"]
    return {
        result["name"]: {
            "image_to_text": result["image_to_text"]["r1"],
            "text_to_image": result["text_to_image"]["r1"],
            "rsum": result["rsum"],
        }
        for result in stored
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
