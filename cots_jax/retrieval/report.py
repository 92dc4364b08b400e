# SPDX-License-Identifier: Apache-2.0
"""One HTML file that shows a run: numbers with their protocol, curves, examples as pictures.

The file stands alone: styles, charts and pictures are inside it, so that it can be mailed, kept
and opened without a network. Everything that comes from data is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

from cots_jax.files import write_whole
from cots_jax.retrieval.curves import Curve, Number, draw, number
from cots_jax.retrieval.intervals import Interval
from cots_jax.retrieval.metrics import DirectionSummary
from cots_jax.retrieval.pictures import (
    ExampleSet,
    PictureRows,
    draw_examples,
    draw_picture_rows,
)
from cots_jax.retrieval.protocols import Leakage, Protocol, Result

PAGE_MARK = '<dl class="facts">'  # in every page that we wrote
_TIES = "1 + wrong candidates that score at least as high as the best correct one"


@dataclass(frozen=True)
class LevelCheck:
    """Whether one level of interaction works on held-out pairs, and how that was judged."""

    name: str
    value: Number | str
    reference: Number | str  # what the value is held against
    meaning: str
    alive: bool


def write_report(
    path: Path,
    *,
    title: str,
    summary_facts: Mapping[str, object],
    results: Sequence[Result] = (),
    curves: Sequence[Curve] = (),
    examples: Sequence[ExampleSet] = (),
    sections: Mapping[str, str] | None = None,
    levels: Sequence[LevelCheck] = (),
    pictures: Sequence[PictureRows] = (),
    question: str = "Is every level alive?",
    answer: str = "alive",
) -> None:
    """Writes the page as a whole; parts that are empty do not appear.

    The fact named `command` (any case) is set as code over the full width. `sections` are further
    ones, HTML by heading, after the results. `question` stands above
    the levels, and each is found to be `answer`, or not.
    """
    parts = {
        "Results": _results(results) if results else "",
        **(sections or {}),
        question: _levels(levels, answer) if levels else "",
        "Pictures": "\n".join(draw_picture_rows(shown) for shown in pictures),
        "Curves": _curves(curves) if curves else "",
        "Examples": "\n".join(draw_examples(e) for e in examples if e.examples),
    }
    shown = {name: body for name, body in parts.items() if body}
    write_whole(Path(path), _page(title, summary_facts, shown))


def _page(title: str, facts: Mapping[str, object], sections: Mapping[str, str]) -> str:
    style = (resources.files("cots_jax.retrieval") / "page" / "report.css").read_text("utf-8")
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections)
    body = "\n".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>\n{content}\n</section>'
        for name, content in sections.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{_facts(facts)}
<nav>{links}</nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")


def _facts(facts: Mapping[str, object]) -> str:
    rows = "".join(_fact(name, str(value)) for name, value in facts.items())
    return f"{PAGE_MARK}{rows}</dl>"


def _fact(name: str, value: str) -> str:
    if name.lower() == "command":
        said = f'<code tabindex="0">{escape(value)}</code>'
        return f'<div class="wide"><dt>{escape(name)}</dt><dd>{said}</dd></div>'
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def _results(results: Sequence[Result]) -> str:
    bodies = "\n".join(_result(result) for result in results)
    below = "; below it the 95 % bootstrap interval over queries" if results[0].interval_95 else ""
    return f"""<p class="note">Recall in percent of the queries{below}. Rank = {_TIES}.</p>
<table class="results">
<thead><tr><th scope="col">query → answer</th><th scope="col">R@1</th><th scope="col">R@5</th>
<th scope="col">R@10</th><th scope="col"><abbr title="median rank">median</abbr></th>
<th scope="col" class="roomy"><abbr title="mean rank">mean</abbr></th>
<th scope="col" class="roomy"><abbr title="recall at 1 of a random order">chance R@1</abbr></th>
</tr></thead>
{bodies}
</table>"""


def _result(result: Result) -> str:
    p = result.protocol
    # a query's chance is its share of correct candidates, taken at the mean
    chance_image = 100 * p.captions_per_image / p.candidates.image_to_text
    chance_text = 100 * (p.captions_per_image * p.images / p.texts) / p.candidates.text_to_image
    ends = result.interval_95
    to_text, to_image = (ends.image_to_text, ends.text_to_image) if ends else ({}, {})
    return f"""<tbody>
<tr class="set"><th colspan="7" scope="rowgroup"><span class="name">{escape(result.name)}</span>
<span class="rsum">rsum {result.rsum:.1f}</span>
<details><summary>{escape(_protocol_line(p))}</summary>{_protocol(p)}</details></th></tr>
{_direction("image → text", result.image_to_text, chance_image, to_text)}
{_direction("text → image", result.text_to_image, chance_text, to_image)}
{leakage_row(p.leakage, p.images, 7)}</tbody>"""


def leakage_row(leakage: Leakage | None, pictures: int, columns: int) -> str:
    """The row of a table that says that its set was trained on; empty where nothing was found."""
    if leakage is None:
        return ""
    said = f"Leakage: {leakage.said(pictures)}"
    return f'<tr class="leak"><td colspan="{columns}">{escape(said)}</td></tr>\n'


def _direction(
    name: str, recall: DirectionSummary, chance: float, ends: Mapping[str, Interval]
) -> str:
    cells = "".join(_recall(getattr(recall, key), ends.get(key)) for key in ("r1", "r5", "r10"))
    return (
        f'<tr><th scope="row">{name}</th>{cells}<td>{recall.median_rank:g}</td>'
        f'<td class="roomy">{recall.mean_rank:.1f}</td><td class="roomy">{chance:.2g}</td></tr>'
    )


def _recall(value: float, ends: Interval | None) -> str:
    if ends is None:
        return f"<td>{value:.1f}</td>"
    between = f"{ends.low:.1f} – {ends.high:.1f}"
    return f'<td>{value:.1f}<span class="between">{between}</span></td>'


def _protocol_line(p: Protocol) -> str:
    frames = f" of {p.frames} frames" if p.frames else ""
    return f"{p.images:,} images{frames} × {p.texts:,} texts, {p.towers} towers, {p.setting}"


def _protocol(p: Protocol) -> str:
    facts = {
        "dataset": f"{p.dataset}, split {p.split}",
        "protocol": p.named + (f", mean of {p.folds} folds" if p.folds > 1 else ""),
        "captions": p.captions_said,
        "candidates": f"{p.candidates.image_to_text:,} texts, "
        f"{p.candidates.text_to_image:,} images",
        "resolution": f"{p.resolution} px" if p.resolution else "not known",
        "frames": f"{p.frames} per video" if p.frames else "",
        "ties": f"{p.tie_rule}: rank = {_TIES}",
        "towers": p.towers,
        "lineage": " → ".join(p.lineage) or "not known",
        "fine-tuned on": ", ".join(p.fine_tuned_on) or "nothing",
    }
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(said)}</dd></div>" for name, said in facts.items() if said
    )
    return f'<dl class="protocol">{rows}</dl>'


def _levels(levels: Sequence[LevelCheck], answer: str) -> str:
    rows = "\n".join(_level(level, answer) for level in levels)
    return f"""<table class="levels">
<thead><tr><th scope="col">level</th><th scope="col">value</th><th scope="col">reference</th>
<th scope="col">verdict</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>"""


def _level(level: LevelCheck, answer: str) -> str:
    verdict = ("alive", f"✓ {answer}") if level.alive else ("dead", f"✗ not {answer}")
    return (
        f'<tr><th scope="row">{escape(level.name)}'
        f'<span class="meaning">{escape(level.meaning)}</span></th>'
        f'<td data-name="value">{_value(level.value)}</td>'
        f'<td data-name="reference">{_value(level.reference)}</td>'
        f'<td><span class="verdict {verdict[0]}">{verdict[1]}</span></td></tr>'
    )


def _value(value: Number | str) -> str:
    return escape(value) if isinstance(value, str) else number(value)


def _curves(curves: Sequence[Curve]) -> str:
    last = max((max(s.steps) for curve in curves for s in curve.series if len(s.steps)), default=0)
    charts = "\n".join(draw(curve, last) for curve in curves)
    return (
        '<p class="note">Across: training steps. Bold lines are means over neighbouring points, '
        f'the faint ones behind them are as logged.</p>\n<div class="charts">{charts}</div>'
    )
