# SPDX-License-Identifier: Apache-2.0
"""Breakdowns of recall as a section of the report, confused pairs with their pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from cots_jax.retrieval.breakdown import Breakdown, ConfusedPair, Part, breakdown_json
from cots_jax.retrieval.pictures import data_uri


@dataclass(frozen=True)
class ShownBreakdown:
    """captions and pictures: what the confused groups are known by."""

    found: Breakdown
    captions: Mapping[int, str]
    pictures: Mapping[int, bytes]

    def row(self) -> dict[str, Any]:
        """A row of results.json."""
        return breakdown_json(self.found, self.captions)


def draw_breakdowns(shown: Sequence[ShownBreakdown]) -> str:
    """HTML of all sets; empty without any."""
    return "\n".join(_draw(one) for one in shown)


def _draw(shown: ShownBreakdown) -> str:
    found = shown.found
    tables = [
        _table("text → image, words of the caption", found.text_to_image_by_words),
        _table("text → image, source", found.text_to_image_by_source),
        _table("image → text, source", found.image_to_text_by_source),
    ]
    pairs = "\n".join(_pair(pair, shown) for pair in found.confused)
    below = (
        '<p class="note">Most often taken for one another: the first wrong answer of queries whose '
        f'right one came later.</p>\n<div class="pairs">{pairs}</div>'
        if pairs
        else ""
    )
    return f"""<section><h3>{escape(found.name)}</h3>
<p class="note">Recall in percent of the queries of each row, among all candidates of the set.</p>
<div class="side-by-side">{"".join(tables)}</div>
{below}</section>"""


def _table(heading: str, parts: Sequence[Part]) -> str:
    if not parts:
        return ""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(part.name)}</th><td>{part.r1:.1f}</td><td>{part.r5:.1f}</td>'
        f"<td>{part.r10:.1f}</td><td>{part.queries:,}</td></tr>"
        for part in parts
    )
    return f"""<table>
<thead><tr><th scope="col">{heading}</th><th scope="col">R@1</th><th scope="col">R@5</th>
<th scope="col">R@10</th><th scope="col">queries</th></tr></thead>
<tbody>
{rows}
</tbody></table>"""


def _pair(pair: ConfusedPair, shown: ShownBreakdown) -> str:
    figures = "".join(_figure(group, shown) for group in (pair.first, pair.second))
    said = f"{pair.times:,} times: image → text {pair.image_to_text:,}, "
    said += f"text → image {pair.text_to_image:,}"
    return (
        f'<article class="example pair"><span class="note">{said}</span>'
        f'<div class="both">{figures}</div></article>'
    )


def _figure(group: int, shown: ShownBreakdown) -> str:
    caption = shown.captions[group]
    address = data_uri(shown.pictures[group])
    return (
        f'<figure><img src="{address}" alt="{escape(caption, quote=True)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
