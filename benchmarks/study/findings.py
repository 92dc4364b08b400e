# SPDX-License-Identifier: Apache-2.0
"""What a suite's runs found: recalls of each arm over seeds, and paired differences."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from benchmarks.study.arms import Suite
from benchmarks.study.filter_quality import (
    RARITY,
    Part,
    Window,
    filter_quality,
    quality_by_rarity,
)
from benchmarks.study.runs import Run
from benchmarks.study.statistics import Difference, Spread, paired, spread

FIGURES = ("image_to_text", "text_to_image", "rsum")  # R@1 both ways and the sum of six recalls


@dataclasses.dataclass(frozen=True)
class ArmRow:
    """One arm on one set."""

    arm: str
    set: str
    figures: dict[str, Spread]


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
class Findings:
    """All of it."""

    arms: tuple[ArmRow, ...]
    contrasts: tuple[ContrastRow, ...]
    filters: tuple[FilterRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, NaN and infinities as None."""
        return _plain(dataclasses.asdict(self))


def find(suite: Suite, runs: Sequence[Run]) -> Findings:
    """Reads the results of finished runs; a contrast takes the seeds that both arms have."""
    results = {(run.arm.name, run.seed): _results(run) for run in runs if run.done}
    sets = list(dict.fromkeys(name for found in results.values() for name in found))
    arms = []
    for arm in suite.arms:
        of = [found for (name, _), found in sorted(results.items()) if name == arm.name]
        for name in sets if of else ():
            figures = {key: spread([found[name][key] for found in of]) for key in FIGURES}
            arms.append(ArmRow(arm.name, name, figures))
    contrasts = []
    for contrast in suite.contrasts:
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
    return Findings(tuple(arms), tuple(contrasts), tuple(filters))


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


def in_words(found: Findings) -> str:
    """Tables for a terminal, in Markdown."""
    lines = ["| arm | set | R@1 i2t | R@1 t2i | rsum | seeds |", "| --- " * 6 + "|"]
    for row in found.arms:
        cells = [str(row.figures[key]) for key in FIGURES]
        seeds = row.figures["rsum"].seeds
        lines.append(f"| {row.arm} | {row.set} | {' | '.join(cells)} | {seeds} |")
    lines += ["", "| difference in rsum | set | mean | 95 % interval | seeds |", "| --- " * 5 + "|"]
    for contrast in found.contrasts:
        d = contrast.difference
        what = f"{contrast.first} - {contrast.second}"
        lines.append(f"| {what} | {contrast.set} | {d.mean:+.1f} | {d.interval} | {len(d.each)} |")
    return "\n".join([*lines, *_filters_in_words(found.filters)])


def _filters_in_words(filters: Sequence[FilterRow]) -> list[str]:
    """The last twentieth of each run; by rarity over its last quarter."""
    if not filters:
        return []
    parts = [f"precision / recall, rarest word in {name} captions" for name in RARITY]
    names = ("precision", "recall", "right pairs dropped", *parts)
    lines = ["", f"| filter | {' | '.join(names)} |", "| --- " * (1 + len(names)) + "|"]
    for row in filters:
        last = row.windows[-1]
        cells = [_share(x) for x in (last.precision, last.recall, last.clean_dropped)]
        cells += [f"{_share(p.precision)} / {_share(p.recall)}" for p in row.rarity.values()]
        lines.append(f"| {row.run} | {' | '.join(cells)} |")
    return lines


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.1%}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
