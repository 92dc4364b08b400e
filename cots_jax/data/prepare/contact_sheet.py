# SPDX-License-Identifier: Apache-2.0
"""A page that stands alone: pictures of a prepared folder with their captions, and rejects."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from cots_jax.data.records import Record

SIDE = 160  # pixels of a thumbnail
QUALITY = 80
STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { margin: 2rem 0 .5rem; font-size: 1.15rem; }
p { margin: .3rem 0; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid #8886; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; } td:first-child { white-space: nowrap; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(168px, 1fr)); gap: 14px; }
figure { margin: 0; border: 1px solid #8884; border-radius: 6px; padding: 6px; min-width: 0; }
figure div { height: 160px; display: flex; align-items: center; justify-content: center;
  background: #8881; border-radius: 3px; }
figcaption { font-size: 12px; margin-top: 4px; overflow-wrap: anywhere; }
figcaption ul { margin: 0; padding: 0; list-style: none; }
figcaption li + li { border-top: 1px solid #8883; margin-top: 3px; padding-top: 3px; }
.id { color: #888; font-size: 11px; display: block; margin-top: 3px; }
"""
MEASURES = (
    "captions_per_picture",
    "caption_words",
    "caption_characters",
    "width",
    "height",
    "picture_bytes",
)


def contact_sheet(
    facts: Mapping[str, Any],
    shown: Mapping[str, Sequence[Record]],
    examples: Mapping[str, Sequence[Mapping[str, str]]],
) -> str:
    """The page. `facts`: of the inspection; `shown`: records by split; `examples`: rejects by
    reason."""
    title = f"{facts['name']}: contact sheet"
    parts = [
        f"<h1>{_text(facts['name'])}</h1>",
        f"<p>kind {_text(facts['kind'])}, {facts['groups']:,} groups, longest side "
        f"{facts['longest_side']} px, fingerprint {_text(facts['fingerprint'][:12])}. "
        f"Licence: {_text(facts['licence'])}.</p>",
        _rejects(facts["drops"], examples),
    ]
    for name, records in shown.items():
        parts += [_measures(name, facts["splits"][name]), _pictures(records)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _text(value: Any) -> str:
    """Text of whatever origin: markup escaped, what is no Unicode replaced."""
    return html.escape(str(value).encode(errors="replace").decode())


def _measures(name: str, found: Mapping[str, Any]) -> str:
    columns = ("least", "median", "mean", "p95", "most")
    head = "<th></th>" + "".join(f'<th class="number">{column}</th>' for column in columns)
    rows = "".join(
        f"<tr><td>{what.replace('_', ' ')}</td>"
        + "".join(f'<td class="number">{found[what][column]:,}</td>' for column in columns)
        + "</tr>"
        for what in MEASURES
    )
    return (
        f"<h2>{_text(name)}: {found['records']:,} pictures, {found['pairs']:,} pairs</h2>"
        f"<p>{found['shards']} shards, {found['bytes'] / 2**20:,.1f} MiB; sizes and lengths of "
        f"{found['sampled']:,} pictures, evenly spaced</p>"
        f"<table><tr>{head}</tr>{rows}</table>"
    )


def _pictures(records: Sequence[Record]) -> str:
    return f'<div class="sheet">{"".join(map(_figure, records))}</div>'


def _figure(record: Record) -> str:
    # captions of any script: `auto` sets each in its own direction
    captions = "".join(f'<li dir="auto">{_text(caption)}</li>' for caption in record.captions)
    frames = f", {len(record.frames)} frames" if record.frames else ""
    return (
        f'<figure><div><img src="{_thumbnail(record.image)}" alt="{_text(record.captions[0])}">'
        f"</div><figcaption><ul>{captions}</ul>"
        f'<span class="id"><bdi>{_text(record.id)}</bdi>{frames}</span></figcaption></figure>'
    )


def _thumbnail(image: bytes) -> str:
    with Image.open(io.BytesIO(image)) as picture:
        picture.draft("RGB", (2 * SIDE, 2 * SIDE))
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _rejects(drops: Mapping[str, int], examples: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    if not drops:
        return "<h2>Nothing was dropped</h2>"
    rows = []
    for reason, count in sorted(drops.items(), key=lambda drop: (-drop[1], drop[0])):
        first = [f"<bdi>{_text(_in_words(one))}</bdi>" for one in examples.get(reason, [])]
        rows.append(
            f'<tr><td>{_text(reason)}</td><td class="number">{count:,}</td>'
            f"<td>{'<br>'.join(first)}</td></tr>"
        )
    return (
        f"<h2>Dropped: {sum(drops.values()):,}</h2>"
        '<table><tr><th>reason</th><th class="number">count</th><th>the first ones</th></tr>'
        f"{''.join(rows)}</table>"
    )


def _in_words(reject: Mapping[str, str]) -> str:
    more = [f"{key} {value}" for key, value in reject.items()
            if key not in ("reason", "source_row", "id")]  # fmt: skip
    return ", ".join([f"{reject['id'] or '(no name)'} at {reject['source_row']}", *more])
