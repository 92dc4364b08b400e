# SPDX-License-Identifier: Apache-2.0
"""Accuracies as a section of the report: one table, and by class what went wrong."""

from collections.abc import Sequence
from html import escape

from cots_jax.retrieval.accuracy import Accuracy, accuracy_note
from cots_jax.retrieval.intervals import Interval
from cots_jax.retrieval.report import leakage_row

COLUMNS = 5
_TIES = "a wrong class that scores as high as the right one counts before it"


def draw_accuracies(found: Sequence[Accuracy]) -> str:
    """HTML of one kind of classification on all sets; empty without any."""
    if not found:
        return ""
    bodies = "\n".join(_body(accuracy) for accuracy in found)
    return f"""<p class="note">In percent of the pictures; below it the 95 % bootstrap interval over
pictures. Ties: {_TIES}.</p>
<table class="results">
<thead><tr><th scope="col">set</th><th scope="col">top 1</th><th scope="col">top 5</th>
<th scope="col"><abbr title="mean over the classes of their recall at top 1">per class</abbr></th>
<th scope="col">chance top 1</th></tr></thead>
{bodies}
</table>
{"".join(_details(accuracy) for accuracy in found)}"""


def _body(found: Accuracy) -> str:
    ends, p = found.interval_95, found.protocol
    cells = "".join(
        _cell(value, ends[key])
        for key, value in (
            ("top1", found.top1),
            ("top5", found.top5),
            ("mean_per_class_recall", found.mean_per_class_recall),
        )
    )
    said = f"{p.pictures:,} pictures, {p.classes:,} classes"
    return f"""<tbody>
<tr class="set"><th colspan="{COLUMNS}" scope="rowgroup">
<span class="name">{escape(found.name)}</span>
<details><summary>{said}</summary>{_protocol(found)}</details></th></tr>
<tr><th scope="row">accuracy</th>{cells}<td>{100 / p.classes:.2g}</td></tr>
{leakage_row(p.leakage, p.pictures, COLUMNS)}</tbody>"""


def _cell(value: float, ends: Interval) -> str:
    return f'<td>{value:.1f}<span class="between">{ends.low:.1f} – {ends.high:.1f}</span></td>'


def _protocol(found: Accuracy) -> str:
    p, method = found.protocol, found.protocol.method
    facts = {
        "dataset": f"{p.dataset}, split {p.split}",
        "measured by": accuracy_note(found),
        "prompts": " · ".join(method.get("prompts", ())),
        "strengths tried (held-out top 1)": ", ".join(
            f"{tried['strength']:g}: {tried['top1']:.1f}" for tried in method.get("tried", ())
        ),
        "lineage": " → ".join(p.lineage) or "not known",
        "fine-tuned on": ", ".join(p.fine_tuned_on) or "nothing",
        "classes without a picture": ", ".join(found.without_pictures),
    }
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(said)}</dd></div>" for name, said in facts.items() if said
    )
    return f'<dl class="protocol">{rows}</dl>'


def _details(found: Accuracy) -> str:
    name = escape(found.name)
    return f"""<details class="per-class"><summary>{name}: classes and confusions</summary>
<div class="side-by-side">{_classes(found)}{_confusions(found)}</div></details>
"""


def _classes(found: Accuracy) -> str:
    worst_first = sorted(found.per_class, key=lambda row: (row.top1, row.top5))
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row.label)}</th><td>{row.top1:.1f}</td>'
        f"<td>{row.top5:.1f}</td><td>{row.pictures:,}</td></tr>"
        for row in worst_first
    )
    return f"""<table>
<thead><tr><th scope="col">class, worst first</th><th scope="col">top 1</th>
<th scope="col">top 5</th><th scope="col">pictures</th></tr></thead>
<tbody>
{rows}
</tbody></table>"""


def _confusions(found: Accuracy) -> str:
    if not found.confusions:
        return ""
    rows = "\n".join(
        f"<tr><td>{escape(pair.label)}</td><td>{escape(pair.answer)}</td>"
        f"<td>{pair.pictures:,}</td></tr>"
        for pair in found.confusions
    )
    return f"""<table class="words">
<thead><tr><th scope="col">is</th><th scope="col">was taken for</th><th scope="col">pictures</th>
</tr></thead>
<tbody>
{rows}
</tbody></table>"""
