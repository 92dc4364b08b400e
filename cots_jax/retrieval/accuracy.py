# SPDX-License-Identifier: Apache-2.0
"""What a classification is worth: accuracies with their intervals, by class, and what is confused.

The shape that zero-shot classification and the linear probe share in results.json.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cots_jax.retrieval.answers import Answers
from cots_jax.retrieval.intervals import DRAWS, Interval
from cots_jax.retrieval.metrics import TIE_RULE, recall_at
from cots_jax.retrieval.protocols import Leakage, Protocol

MOST_CONFUSED = 20  # pairs that are listed


@dataclass(frozen=True)
class ClassProtocol:
    """Everything that must agree before two accuracies may be compared.

    method: how classes are told apart, in JSON: of a zero-shot classification the prompts, of a
    linear probe what it was trained on and how its strength was chosen.
    """

    dataset: str
    split: str
    pictures: int
    classes: int
    towers: str
    resolution: int  # px
    lineage: tuple[str, ...]
    fine_tuned_on: tuple[str, ...]
    method: Mapping[str, Any]
    leakage: Leakage | None = None
    label: str = "first caption"
    tie_rule: str = TIE_RULE


@dataclass(frozen=True)
class ClassRow:
    """One class that has pictures, in percent of them."""

    label: str
    pictures: int
    top1: float
    top5: float


@dataclass(frozen=True)
class Confused:
    """How many pictures of `label` were taken for `answer`."""

    label: str
    answer: str
    pictures: int


@dataclass(frozen=True)
class Accuracy:
    """In percent. A picture counts at top 1 where no wrong class scores as high as its own."""

    name: str
    protocol: ClassProtocol
    top1: float
    top5: float
    mean_per_class_recall: float  # at top 1, over the classes that have pictures
    interval_95: dict[str, Interval]  # over pictures, of the three above
    per_class: tuple[ClassRow, ...]
    confusions: tuple[Confused, ...]  # the most frequent
    without_pictures: tuple[str, ...] = field(default=())  # classes that nothing asked for


def class_protocol(
    whole: Protocol, pictures: int, classes: int, method: Mapping[str, Any]
) -> ClassProtocol:
    """Of a set whose retrieval protocol is `whole`."""
    return ClassProtocol(
        dataset=whole.dataset,
        split=whole.split,
        pictures=pictures,
        classes=classes,
        towers=whole.towers,
        resolution=whole.resolution,
        lineage=whole.lineage,
        fine_tuned_on=whole.fine_tuned_on,
        method=method,
        leakage=whole.leakage,
    )


def measure(
    name: str,
    protocol: ClassProtocol,
    answers: Answers,
    label: Int[np.ndarray, "p"],
    labels: Sequence[str],
) -> Accuracy:
    """Sums up the answers to pictures of these classes (`label`: their numbers in `labels`)."""
    count = len(labels)
    pictures = np.bincount(label, minlength=count)
    found = [np.bincount(label, weights=answers.rank <= k, minlength=count) for k in (1, 5)]
    rows = [
        ClassRow(labels[c], int(pictures[c]), *(float(100 * f[c] / pictures[c]) for f in found))
        for c in np.flatnonzero(pictures).tolist()
    ]
    return Accuracy(
        name=name,
        protocol=protocol,
        top1=recall_at(answers.rank, 1),
        top5=recall_at(answers.rank, 5),
        mean_per_class_recall=float(np.mean([row.top1 for row in rows])),
        interval_95=accuracy_intervals(answers.rank, label, count),
        per_class=tuple(rows),
        confusions=_confusions(answers, label, labels),
        without_pictures=tuple(labels[c] for c in np.flatnonzero(pictures == 0).tolist()),
    )


def accuracy_intervals(
    rank: Int[np.ndarray, "p"],
    label: Int[np.ndarray, "p"],
    classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % percentile intervals: pictures are drawn with replacement, whatever their class (own
    choice). A class that a draw has no picture of does not count in that draw's mean."""
    top1, top5 = (rank <= 1).astype(np.float64), (rank <= 5).astype(np.float64)
    rng = np.random.default_rng(seed)
    figures = np.empty((draws, 3))
    for draw in range(draws):
        times = np.bincount(rng.integers(0, len(rank), len(rank)), minlength=len(rank))
        of_class = np.bincount(label, weights=times, minlength=classes)
        right = np.bincount(label, weights=times * top1, minlength=classes)
        there = of_class > 0
        figures[draw] = (
            times @ top1 / len(rank),
            times @ top5 / len(rank),
            np.mean(right[there] / of_class[there]),
        )
    names = ("top1", "top5", "mean_per_class_recall")
    return {name: _interval(100 * figures[:, at]) for at, name in enumerate(names)}


def _interval(values: Float[np.ndarray, "n"]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))


def _confusions(
    answers: Answers, label: Int[np.ndarray, "p"], labels: Sequence[str]
) -> tuple[Confused, ...]:
    missed = answers.rank > 1
    pairs = zip(label[missed].tolist(), answers.wrong[missed].tolist(), strict=True)
    counted = sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        Confused(labels[asked], labels[given], times)
        for (asked, given), times in counted[:MOST_CONFUSED]
    )


def accuracy_json(found: Accuracy) -> dict[str, Any]:
    """A row of results.json."""
    row = asdict(found)
    if row["protocol"]["leakage"] is None:
        del row["protocol"]["leakage"]
    return row


def read_accuracy(row: Mapping[str, Any]) -> Accuracy:
    """The inverse of `accuracy_json`; KeyError or TypeError where the row is something else."""
    protocol = dict(row["protocol"])
    for key in ("lineage", "fine_tuned_on"):
        protocol[key] = tuple(protocol[key])
    if "leakage" in protocol:
        protocol["leakage"] = Leakage(**protocol["leakage"])
    return Accuracy(
        name=row["name"],
        protocol=ClassProtocol(**protocol),
        top1=row["top1"],
        top5=row["top5"],
        mean_per_class_recall=row["mean_per_class_recall"],
        interval_95={key: Interval(**ends) for key, ends in row["interval_95"].items()},
        per_class=tuple(ClassRow(**of) for of in row["per_class"]),
        confusions=tuple(Confused(**of) for of in row["confusions"]),
        without_pictures=tuple(row["without_pictures"]),
    )


def accuracy_table(title: str, found: Sequence[Accuracy]) -> str:
    """Aligned plain text, one line a set; what it was measured by underneath."""
    header = (title, "top 1", "95 %", "top 5", "per class", "95 %", "pictures", "classes")
    rows = [_table_row(accuracy) for accuracy in found]
    widths = [max(len(row[c]) for row in [header, *rows]) for c in range(len(header))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_align(header, widths), rule, *(_align(row, widths) for row in rows), rule]
    notes = dict.fromkeys(accuracy_note(accuracy) for accuracy in found)
    return "\n".join(line.rstrip() for line in [*lines, *notes])


def _table_row(found: Accuracy) -> tuple[str, ...]:
    ends = found.interval_95
    top, mean = (
        f"{ends[key].low:.1f}-{ends[key].high:.1f}" for key in ("top1", "mean_per_class_recall")
    )
    return (
        found.name,
        f"{found.top1:.1f}",
        top,
        f"{found.top5:.1f}",
        f"{found.mean_per_class_recall:.1f}",
        mean,
        f"{found.protocol.pictures:,}",
        f"{found.protocol.classes:,}",
    )


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([row[0].ljust(widths[0]), *numbers])


def accuracy_note(found: Accuracy) -> str:
    """By what the numbers were measured, in one line."""
    p, method = found.protocol, found.protocol.method
    note = f"percent of the pictures, label = {p.label}, {p.towers} towers, {p.resolution} px"
    if "prompts" in method:
        plural = "" if len(method["prompts"]) == 1 else "s"
        note += f", {len(method['prompts'])} prompt{plural}"
        if method["prompts_cut"]:
            note += f" ({method['prompts_cut']:,} cut at {method['text_length']} tokens)"
    if "strength" in method:
        note += f", trained on {method['trained_on']}, L2 strength {method['strength']:g}"
        if method["pictures_also_in_training"]:
            note += f", {method['pictures_also_in_training']:,} PICTURES IN BOTH"
    if found.without_pictures:
        plural = "" if len(found.without_pictures) == 1 else "es"
        note += f", {len(found.without_pictures):,} class{plural} without a picture here"
    return f"{note}, {p.tie_rule} ties"
