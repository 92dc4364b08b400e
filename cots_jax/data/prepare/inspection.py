# SPDX-License-Identifier: Apache-2.0
"""What is in a prepared folder, to be looked at before a week of training."""

import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cots_jax.data.prepare.contact_sheet import contact_sheet
from cots_jax.data.records import REJECTS_FILE, Record, Split, open_split, read_facts
from cots_jax.errors import UserError
from cots_jax.files import write_whole

SAMPLED = 2000  # records a split whose pictures and captions are measured; own choice
SHOWN = 60  # pictures a split on the contact sheet; own choice
EXAMPLES = 3  # rejects shown for each reason
SHEET_FILE = "contact_sheet.html"
QUANTILES = {"least": 0, "median": 50, "p95": 95, "most": 100}


@dataclass(frozen=True)
class Inspection:
    """What was found; `facts` is its machine-readable form."""

    facts: dict[str, Any]

    def summary(self) -> str:
        """A few lines a split, for people."""
        facts = self.facts
        lines = [f"{facts['name']} ({facts['kind']}), {facts['groups']:,} groups"]
        lines += [line for name, found in facts["splits"].items() for line in _lines(name, found)]
        drops = facts["drops"]
        lines.append(f"dropped: {sum(drops.values()):,}" if drops else "nothing was dropped")
        lines += [f"  {count:>9,}  {reason}" for reason, count in _by_count(drops)]
        lines.append(f"look at {facts['contact_sheet']}")
        return "\n".join(lines)


def inspect(out: pathlib.Path | None, folder: pathlib.Path) -> Inspection:
    """Measures a prepared folder and writes its contact sheet to `out` (None: into the folder).

    UserError where the folder is none, half-written or damaged.
    """
    facts = read_facts(folder)
    sheet = (out or folder) / SHEET_FILE
    splits, shown = {}, {}
    for name in sorted(facts["splits"]):
        with open_split(folder, name) as split:
            splits[name] = _measure(split)
            shown[name] = [split.record(i) for i in evenly(len(split), SHOWN)]
    found = {
        **{key: facts[key] for key in ("name", "kind", "licence", "longest_side", "groups")},
        "fingerprint": facts["fingerprint"],
        "splits": splits,
        "drops": facts["drops"],
        "contact_sheet": str(sheet),
    }
    write_whole(sheet, contact_sheet(found, shown, _examples(folder / REJECTS_FILE)))
    return Inspection(found)


def evenly(length: int, most: int) -> list[int]:
    """At most `most` of the numbers below `length`, evenly spaced from the first on."""
    count = min(length, most)
    return [i * length // count for i in range(count)]


def _measure(split: Split) -> dict[str, Any]:
    rows = evenly(len(split), SAMPLED)
    records = [_sizes(split.record(i)) for i in rows]
    captions = [words for record in records for words in record["captions"]]
    shards = [shard for shard in split.facts["shards"] if shard["split"] == split.split]
    frames = {"frames": _spread([r["frames"] for r in records])} if split.frames else {}
    return {
        **split.facts["splits"][split.split],
        "bytes": sum(shard["bytes"] for shard in shards),
        "captions_per_picture": _spread(split.captions_per_record),
        "sampled": len(rows),
        **frames,
        "width": _spread([record["width"] for record in records]),
        "height": _spread([record["height"] for record in records]),
        "picture_bytes": _spread([record["bytes"] for record in records]),
        "caption_words": _spread([len(text.split()) for text in captions]),
        "caption_characters": _spread([len(text) for text in captions]),
    }


def _sizes(record: Record) -> dict[str, Any]:
    with Image.open(io.BytesIO(record.image)) as picture:  # reads the header only
        width, height = picture.size
    return {
        "width": width,
        "height": height,
        "bytes": len(record.image),
        "frames": len(record.frames),
        "captions": record.captions,
    }


def _spread(values: Sequence[int] | np.ndarray) -> dict[str, int | float]:
    found = np.percentile(values, list(QUANTILES.values()), method="nearest")
    return dict(zip(QUANTILES, found.astype(int).tolist())) | {
        "mean": round(float(np.mean(values)), 2)
    }


def _lines(name: str, found: dict[str, Any]) -> Iterator[str]:
    noun = "videos" if "frames" in found else "pictures"
    yield (
        f"{name}: {found['records']:,} {noun}, {found['pairs']:,} pairs, "
        f"{found['shards']} shards of {found['bytes'] / 2**20:,.1f} MiB together"
    )
    sizes = ("captions_per_picture", "caption_words", "caption_characters", "width", "height")
    for what in (*(["frames"] if "frames" in found else []), *sizes):
        spread = found[what]
        yield (
            f"  {what.replace('_', ' ')}: {spread['least']} to {spread['most']}, "
            f"median {spread['median']}, 95 % up to {spread['p95']}"
        )
    if found["sampled"] < found["records"]:
        yield f"  (sizes and lengths of {found['sampled']:,} {noun}, evenly spaced)"


def _by_count(drops: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(drops.items(), key=lambda drop: (-drop[1], drop[0]))


def _examples(path: pathlib.Path) -> dict[str, list[dict[str, str]]]:
    """The first rejects of each reason, in the order of the file."""
    found: dict[str, list[dict[str, str]]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                reject = json.loads(line)
                listed = found.setdefault(str(reject["reason"]), [])
                if len(listed) < EXAMPLES:
                    listed.append(reject)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): prepare the folder again") from error
    return found
