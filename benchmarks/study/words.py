# SPDX-License-Identifier: Apache-2.0
"""What a study found as Markdown tables, for a terminal and for the docs."""

import math
from collections.abc import Mapping, Sequence

from benchmarks.study.filter_quality import RARITY
from benchmarks.study.findings import FIGURES, FilterRow, Findings, Plateau, Setting


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
    lines += _plateaus_in_words(found.plateaus) + _settings_in_words(found.settings)
    return "\n".join([*lines, *_filters_in_words(found.filters)])


def _plateaus_in_words(plateaus: Sequence[Plateau]) -> list[str]:
    if not plateaus:
        return []
    head = "| longer and longer | arm | steps | rsum looked at | seeds | |"
    lines = ["", head, "| --- " * 6 + "|"]
    for plateau in plateaus:
        for rung in plateau.rungs:
            best = "best" if rung.arm == plateau.best else ""
            if best and not plateau.reached:
                best = "best, and nothing longer was tried"
            cells = (
                plateau.method,
                rung.arm,
                f"{rung.steps:,.0f}",
                str(rung.looked_at),
                str(rung.looked_at.seeds),
                best,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _settings_in_words(settings: Sequence[Setting]) -> list[str]:
    if not settings:
        return []
    lines = ["", "| tried for | setting | rsum, mean of the sets | seeds |", "| --- " * 4 + "|"]
    for one in settings:
        cells = (one.group, f"{one.arm}: {in_short(one.keys)}", str(one.rsum), str(one.rsum.seeds))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def in_short(keys: Mapping[str, str]) -> str:
    """The keys that make a setting, on one line."""
    return "; ".join(f"{key.rpartition('.')[2]} {value}" for key, value in keys.items())


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
