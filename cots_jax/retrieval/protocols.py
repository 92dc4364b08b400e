# SPDX-License-Identifier: Apache-2.0
"""What a recall was measured on, written beside every number.

A recall without its protocol is no result: the same model is ten points better on 1,000 images
than on 5,000, and better again once it was fine-tuned on the set's own training part. The shape of
`results.json` is a contract that scripts rely on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from cots_jax.errors import UserError
from cots_jax.files import write_whole
from cots_jax.retrieval.intervals import Interval, Intervals
from cots_jax.retrieval.metrics import TIE_RULE, DirectionSummary, Summary


@dataclass(frozen=True)
class CandidateCounts:
    """How many answers each query chooses from."""

    image_to_text: int
    text_to_image: int


@dataclass(frozen=True)
class CaptionCounts:
    """Correct texts of an image: mean over the images, fewest and most."""

    mean: float
    least: int
    most: int


@dataclass(frozen=True)
class Leakage:
    """Pictures of an evaluated split that a split which was trained on has too."""

    folder: str  # as the lineage names it
    split: str
    pictures: int  # of the evaluated split
    with_caption: int  # that stand there with a caption that they have here

    def said(self, of: int) -> str:
        """In words; `of`: how many pictures are evaluated."""
        return (
            f"{self.pictures:,} of {of:,} pictures are in {self.folder}#{self.split}, which this "
            f"model was trained on, {self.with_caption:,} of them with a caption of theirs"
        )


@dataclass(frozen=True)
class Protocol:
    """Everything that must agree before two recalls may be compared."""

    dataset: str
    split: str
    images: int
    texts: int
    captions_per_image: float  # mean over the images
    candidates: CandidateCounts
    towers: str  # online | momentum | given (embeddings from elsewhere)
    resolution: int  # px, side of the square that the image tower sees; 0 not known
    lineage: tuple[str, ...] = ()  # what the weights were initialised from and trained on
    fine_tuned_on: tuple[str, ...] = ()  # empty: not fine-tuned
    tie_rule: str = TIE_RULE
    frames: int | None = None  # per video; None for pictures
    captions_per_image_range: tuple[int, int] | None = None  # where images differ
    named: str = ""  # a published protocol of that name; empty: the set as it is
    folds: int = 1  # each with candidates of its own; the figures are means over them
    leakage: Leakage | None = None  # the worst; None: none was found

    @property
    def setting(self) -> str:
        """Fine-tuned on what, as the lineage says."""
        if not self.fine_tuned_on:
            return "not fine-tuned"
        return "fine-tuned on " + ", ".join(self.fine_tuned_on)

    @property
    def captions_said(self) -> str:
        """Captions per image in words, with the range where images differ."""
        if self.captions_per_image_range is None:
            plural = "" if self.captions_per_image == 1 else "s"
            return f"{self.captions_per_image:g} caption{plural} per image"
        least, most = self.captions_per_image_range
        return f"{least} to {most} captions per image ({self.captions_per_image:.2f} on average)"


@dataclass(frozen=True)
class Result:
    """Both directions of one evaluation set, with its protocol."""

    name: str
    protocol: Protocol
    image_to_text: DirectionSummary
    text_to_image: DirectionSummary
    rsum: float
    interval_95: Intervals | None = None  # of offline evaluations


def count_captions(
    image_group: Int[np.ndarray, "i"], text_group: Int[np.ndarray, "x"]
) -> CaptionCounts:
    """Correct texts per image; equal group ids belong together."""
    ids, counts = np.unique(text_group, return_counts=True)
    place = np.minimum(np.searchsorted(ids, image_group), len(ids) - 1)
    per_image = np.where(ids[place] == image_group, counts[place], 0)
    return CaptionCounts(float(per_image.mean()), int(per_image.min()), int(per_image.max()))


def describe_set(
    image_group: Int[np.ndarray, "i"],
    text_group: Int[np.ndarray, "x"],
    *,
    dataset: str,
    split: str,
    towers: str,
    resolution: int,
    lineage: Sequence[str] = (),
    fine_tuned_on: Sequence[str] = (),
    frames: int | None = None,
) -> Protocol:
    """The protocol of a set, its counts read from the truth itself."""
    captions = count_captions(image_group, text_group)
    uneven = captions.least != captions.most
    return Protocol(
        dataset=dataset,
        split=split,
        images=len(image_group),
        texts=len(text_group),
        captions_per_image=captions.mean,
        candidates=CandidateCounts(len(text_group), len(image_group)),
        towers=towers,
        resolution=resolution,
        lineage=tuple(lineage),
        fine_tuned_on=tuple(fine_tuned_on),
        frames=frames,
        captions_per_image_range=(captions.least, captions.most) if uneven else None,
    )


def make_result(
    name: str, protocol: Protocol, summary: Summary, intervals: Intervals | None = None
) -> Result:
    """Recalls under the name and protocol that they were measured by."""
    both = summary.image_to_text, summary.text_to_image
    return Result(name, protocol, *both, summary.rsum, intervals)


def results_json(results: Sequence[Result]) -> dict[str, Any]:
    """The content of results.json; recalls in percent, at full precision."""
    rows = []
    for result in results:
        row: dict[str, Any] = asdict(result)
        protocol = row["protocol"]
        for optional in ("frames", "captions_per_image_range", "leakage"):
            if protocol[optional] is None:
                del protocol[optional]
        if not protocol["named"]:
            del protocol["named"], protocol["folds"]
        if row["interval_95"] is None:
            del row["interval_95"]
        rows.append(row)
    # a round trip turns tuples into the lists that a reader of the file will see
    return json.loads(json.dumps({"results": rows}))


def write_results(
    path: Path, results: Sequence[Result], beside: Mapping[str, Any] | None = None
) -> None:
    """Writes results.json as a whole: a reader never sees half a file.

    beside: JSON under other keys than `results`, kept in the same file.
    """
    content = results_json(results) | dict(beside or {})
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(Path(path), text)


def read_results(path: Path) -> list[Result]:
    """Reads what `write_results` wrote; UserError where the file is absent or something else."""
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["results"]
        return [_read_result(row) for row in rows]
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}: run python -m cots_jax.evaluate --workdir={path.parent} first"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no results file of this program ({type(error).__name__}: {error}): "
            "evaluate again, or name another file"
        ) from None


def table(results: Sequence[Result]) -> str:
    """Recalls as aligned plain text, one line a set and direction; the protocol underneath."""
    header = ("set", "query -> answer", "R@1", "95 %", "R@5", "R@10", "median", "candidates")
    rows = [row for result in results for row in _table_rows(result)]
    widths = [max(len(row[c]) for row in [header, *rows]) for c in range(len(header))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_align(header, widths), rule, *(_align(row, widths) for row in rows), rule]
    return "\n".join(line.rstrip() for line in [*lines, *_footnotes(results)])


def _table_rows(result: Result) -> list[tuple[str, ...]]:
    candidates, ends = result.protocol.candidates, result.interval_95
    to_text, to_image = (ends.image_to_text, ends.text_to_image) if ends else ({}, {})
    return [
        (
            result.name,
            "image -> text",
            *_numbers(result.image_to_text, to_text),
            f"{candidates.image_to_text:,}",
        ),
        (
            "",
            "text -> image",
            *_numbers(result.text_to_image, to_image),
            f"{candidates.text_to_image:,}",
        ),
    ]


def _numbers(recall: DirectionSummary, ends: Mapping[str, Interval]) -> tuple[str, ...]:
    said = f"{ends['r1'].low:.1f}-{ends['r1'].high:.1f}" if ends else ""
    recalls = (f"{n:.1f}" for n in (recall.r5, recall.r10))
    return (f"{recall.r1:.1f}", said, *recalls, f"{recall.median_rank:g}")


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*words, *numbers])


def _footnotes(results: Sequence[Result]) -> list[str]:
    notes: dict[str, list[str]] = {}
    for result in results:
        p = result.protocol
        note = f"{p.towers} towers, {p.setting}, {p.captions_said}"
        note += f", {p.resolution} px" if p.resolution else ""
        note += f", {p.frames} frame{'' if p.frames == 1 else 's'} a video" if p.frames else ""
        note += f", mean of {p.folds} folds" if p.folds > 1 else ""
        notes.setdefault(f"{note}, {p.tie_rule} ties", []).append(result.name)
    if len(notes) == 1:
        return [f"recalls in percent; {note}" for note in notes]
    return ["recalls in percent", *(f"{', '.join(names)}: {note}" for note, names in notes.items())]


def _read_result(row: Mapping) -> Result:
    protocol = dict(row["protocol"])
    protocol["candidates"] = CandidateCounts(**protocol["candidates"])
    for key in ("lineage", "fine_tuned_on", "captions_per_image_range"):
        if protocol.get(key) is not None:
            protocol[key] = tuple(protocol[key])
    if protocol.get("leakage") is not None:
        protocol["leakage"] = Leakage(**protocol["leakage"])
    known = {field.name for field in fields(Protocol)}
    return Result(
        name=row["name"],
        protocol=Protocol(**{key: value for key, value in protocol.items() if key in known}),
        image_to_text=DirectionSummary(**row["image_to_text"]),
        text_to_image=DirectionSummary(**row["text_to_image"]),
        rsum=row["rsum"],
        interval_95=_read_intervals(row["interval_95"]) if "interval_95" in row else None,
    )


def _read_intervals(row: Mapping) -> Intervals:
    both = (
        {key: Interval(**ends) for key, ends in row[side].items()}
        for side in ("image_to_text", "text_to_image")
    )
    return Intervals(*both, rsum=Interval(**row["rsum"]))
