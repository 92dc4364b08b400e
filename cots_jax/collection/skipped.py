# SPDX-License-Identifier: Apache-2.0
"""`skipped.jsonl`: what is not in an index, and why. A broken picture is not read again."""

import json
from collections.abc import Iterable
from pathlib import Path

from cots_jax.collection.sources import Skipped
from cots_jax.files import write_whole

SKIPPED_FILE = "skipped.jsonl"


def write_skipped(folder: Path, skipped: Iterable[Skipped]) -> None:
    """Replaces the list; one JSON object a line: path, reason, and stamp where it was read."""
    lines = []
    for one in skipped:
        said = {"path": one.name, "reason": one.reason}
        lines.append(json.dumps(said | ({"stamp": one.stamp} if one.stamp else {})) + "\n")
    write_whole(folder / SKIPPED_FILE, "".join(lines))


def read_skipped(folder: Path) -> list[Skipped]:
    """The list; empty where it is missing or damaged, as it saves work and no more."""
    try:
        text = (folder / SKIPPED_FILE).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        return [Skipped(line["path"], line["reason"], line.get("stamp", "")) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def in_words(counts: dict[str, int], listed: bool = True) -> str:
    """Counts by reason in one line; listed: in SKIPPED_FILE."""
    if not counts:
        return "nothing was skipped"
    counted = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
    return f"skipped {counted} (see {SKIPPED_FILE})" if listed else f"skipped {counted}"
