# SPDX-License-Identifier: Apache-2.0
"""The recorded counts, and what differs from them."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cots_jax.errors import UserError
from cots_jax.files import write_whole

RECORDED = Path(__file__).with_name("recorded.json")
COMMAND = "python -m benchmarks.counts"
REMEDY = f"{COMMAND} --update writes it down on purpose"
# A part with this key is a compiler's work: another version may do it otherwise.
VERSION = "jaxlib"

Counts = Mapping[str, Any]  # part -> step -> what is counted, a number or such a mapping again


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Lines, one each."""

    differences: list[str]
    not_compared: list[str]  # the compiler's work, where it is recorded of another version


def installed_version() -> str:
    """Of jaxlib, which brings XLA."""
    return importlib.metadata.version(VERSION)


def read_counts(file: Path = RECORDED) -> dict[str, Any]:
    """What is written down. Raises UserError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({error}): {REMEDY}") from error


def write_counts(found: Counts, file: Path = RECORDED) -> None:
    """Writes down the parts of `found`; other parts of the file stay."""
    before = read_counts(file) if file.exists() else {}
    write_whole(file, json.dumps(before | dict(found), indent=1) + "\n")


def compare(recorded: Counts, found: Counts) -> Comparison:
    """Of the parts that were found, each number against the recorded one, exactly."""
    differences: list[str] = []
    not_compared: list[str] = []
    for part, now in found.items():
        before = recorded.get(part, {})
        versions = before.get(VERSION), now.get(VERSION)
        if None not in versions and versions[0] != versions[1]:
            not_compared.append(
                f"{part}: recorded with {VERSION} {versions[0]}, here is {versions[1]}, whose "
                f"compiler may choose otherwise; {REMEDY}"
            )
            continue
        old, new = dict(_flat(before)), dict(_flat(now))
        for path in old | new:
            if old.get(path) != new.get(path):
                differences.append(_said(part, path, old.get(path), new.get(path)))
    return Comparison(differences, not_compared)


def _flat(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*above, name))
        else:
            yield (*above, name), value


def _said(part: str, path: tuple[str, ...], old: Any, new: Any) -> str:
    step, what = (path[0], path[1:]) if len(path) > 1 else (part, path)
    name = f"{step}: {', '.join(what)}"
    if old is None:
        return f"{name} is {new} and not recorded; {REMEDY}"
    if new is None:
        return f"{name} was {old} and is counted no more; {REMEDY}"
    share = ""
    if isinstance(old, int) and isinstance(new, int) and old:
        share = f" ({(new - old) / old:+.1%})".replace("%", " %")
    return f"{name} {old} -> {new}{share}; {REMEDY}"
