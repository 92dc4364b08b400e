# SPDX-License-Identifier: Apache-2.0
"""What an evaluation left in a folder: whether it is ours, and whether it still holds."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cots_jax.errors import UserError
from cots_jax.retrieval.accuracy import Accuracy, accuracy_json, read_accuracy
from cots_jax.retrieval.protocols import Result, read_results, write_results
from cots_jax.retrieval.report import PAGE_MARK, LevelCheck

RESULTS, REPORT = "results.json", "report.html"
FORM = 2  # raised when an evaluation comes to hold more, so that older ones are done again


@dataclasses.dataclass(frozen=True)
class Stored:
    """What an evaluation of a trained folder found."""

    results: Sequence[Result]
    levels: Sequence[LevelCheck]
    zero_shot: Sequence[Accuracy] = ()
    linear_probe: Sequence[Accuracy] = ()
    breakdown: Sequence[Mapping[str, Any]] = ()  # rows as breakdown.py makes them
    notes: Sequence[str] = ()


def beside_results(found: Stored) -> dict[str, Any]:
    """The keys of results.json beside `results` and `levels`; what is empty has none."""
    keys = {
        "zero_shot": [accuracy_json(accuracy) for accuracy in found.zero_shot],
        "linear_probe": [accuracy_json(accuracy) for accuracy in found.linear_probe],
        "breakdown": list(found.breakdown),
        "notes": list(found.notes),
    }
    return {key: value for key, value in keys.items() if value}


def store(out: Path, found: Stored, made_from: Mapping[str, Any]) -> None:
    """Writes results.json with what it was made from, and the digest of the report beside it.

    Comes after the report: where results.json is, all is. made_from: JSON, whatever the numbers
    depend on.
    """
    levels = [dataclasses.asdict(level) for level in found.levels]
    origin = {**made_from, "form": FORM, "report": _digest(out / REPORT)}
    beside = {"levels": levels, **beside_results(found), "made_from": origin}
    write_results(out / RESULTS, found.results, beside)


def stored(out: Path, made_from: Mapping[str, Any]) -> Stored | None:
    """What `store` wrote; None where it or its report is missing, changed or of others."""
    try:
        content = json.loads((out / RESULTS).read_text(encoding="utf-8"))
        if content["made_from"] != {**made_from, "form": FORM, "report": _digest(out / REPORT)}:
            return None
        return Stored(
            read_results(out / RESULTS),
            [LevelCheck(**level) for level in content["levels"]],
            tuple(read_accuracy(row) for row in content.get("zero_shot", ())),
            tuple(read_accuracy(row) for row in content.get("linear_probe", ())),
            tuple(content.get("breakdown", ())),
            tuple(content.get("notes", ())),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_foreign(out: Path) -> None:
    """Raises UserError where `out` has a results.json or a report.html that we did not write."""
    try:
        if (out / RESULTS).exists():
            read_results(out / RESULTS)
        page = out / REPORT
        if page.exists() and PAGE_MARK not in page.read_text(encoding="utf-8", errors="replace"):
            raise UserError(f"{page} is no report of this program")
    except (UserError, OSError) as error:
        raise UserError(
            f"{out} holds a file that is not ours to replace ({error}): move it away, or choose "
            "another --out"
        ) from error


def _digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
