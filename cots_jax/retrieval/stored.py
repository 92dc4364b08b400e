# SPDX-License-Identifier: Apache-2.0
"""What an evaluation left in a folder: whether it is ours, and whether it still holds."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cots_jax.errors import UserError
from cots_jax.retrieval.protocols import Result, read_results, write_results
from cots_jax.retrieval.report import PAGE_MARK, LevelCheck

RESULTS, REPORT = "results.json", "report.html"


@dataclasses.dataclass(frozen=True)
class Stored:
    """What an evaluation of a trained folder found."""

    results: Sequence[Result]
    levels: Sequence[LevelCheck]


def store(out: Path, found: Stored, made_from: Mapping[str, Any]) -> None:
    """Writes results.json with what it was made from, and the digest of the report beside it.

    Comes after the report: where results.json is, all is. made_from: JSON, whatever the numbers
    depend on.
    """
    levels = [dataclasses.asdict(level) for level in found.levels]
    origin = {**made_from, "report": _digest(out / REPORT)}
    write_results(out / RESULTS, found.results, {"levels": levels, "made_from": origin})


def stored(out: Path, made_from: Mapping[str, Any]) -> Stored | None:
    """What `store` wrote; None where it or its report is missing, changed or of others."""
    try:
        content = json.loads((out / RESULTS).read_text(encoding="utf-8"))
        if content["made_from"] != {**made_from, "report": _digest(out / REPORT)}:
            return None
        levels = [LevelCheck(**level) for level in content["levels"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Stored(read_results(out / RESULTS), levels)


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
