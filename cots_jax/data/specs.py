# SPDX-License-Identifier: Apache-2.0
"""How configs and flags name prepared data: `FOLDER#SPLIT`, several joined by commas.

Training data may weigh: the pairs of `data/own#train*3` come three times as often as those of
`data/web#train`, which is the same as `*1`; `data/own#train*50%` is half of all rows (weights.py).
"""

import collections
import os
import pathlib
from collections.abc import Sequence

from cots_jax.data.pair_table import Source
from cots_jax.data.weights import ONCE, Weight
from cots_jax.errors import UserError

TRAINING = "config.data.train"


def parse_sources(text: str, key: str, prepare: str = "") -> list[Source]:
    """The sources that `text` names; empty text is none.

    Raises UserError where one is named twice or its folder is missing; `prepare` is the command
    that makes the config's own.
    """
    sources = read_sources(text, key)
    named = collections.Counter(
        (os.path.realpath(source.folder), source.split) for source in sources
    )
    repeated = [name for name, times in named.items() if times > 1]
    if repeated:
        twice = "#".join(repeated[0])
        raise UserError(f"{key} names {twice} twice: name it once, with a weight if it is meant")
    missing = [source.folder for source in sources if not pathlib.Path(source.folder).exists()]
    if missing:
        known = {missing[0], "FOLDER"} & {*prepare.replace("=", " ").split()}
        remedy = f"make it with: {prepare}" if known else "python -m cots_jax.prepare makes one"
        raise UserError(f"{key}: there is no folder {missing[0]}; {remedy}")
    return sources


def read_sources(text: str, key: str) -> list[Source]:
    """What `text` says, whether or not it is there."""
    sources = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        folder, mark, split = part.rpartition("#")
        split, star, weight = split.partition("*")
        if not mark or not folder or not split:
            raise UserError(f"{key} = {text!r}: write FOLDER#SPLIT, e.g. data/emoji#train")
        if star and key != TRAINING:
            raise UserError(f"{key} = {text!r}: only the sources of {TRAINING} may weigh")
        sources.append(Source(folder, split, _weight(weight, text, key) if star else ONCE))
    return sources


def _weight(written: str, text: str, key: str) -> Weight:
    try:
        return Weight.parse(written)
    except ValueError as error:
        raise UserError(
            f"{key} = {text!r}: the weight {error}; write e.g. *3 (three times as often) or *25% "
            "(of all rows)"
        ) from error


def same_sources(before: str, now: str) -> bool:
    """Whether a run that began with `before` as training data may go on with `now`: the same
    sources in the same order, with any weights, and others only behind them."""
    old, new = (
        [(source.folder, source.split) for source in read_sources(text, TRAINING)]
        for text in (before, now)
    )
    return new[: len(old)] == old


def lineage_of(sources: Sequence[Source], fingerprints: Sequence[str]) -> tuple[str, ...]:
    """Names a training set so that its numbers can be traced."""
    return tuple(
        f"{source.folder}#{source.split} ({fingerprint[:12]})"
        for source, fingerprint in zip(sources, fingerprints, strict=True)
    )


def distinct_names(sources: Sequence[Source], short: Sequence[str]) -> list[str]:
    """The short names; FOLDER#SPLIT for those that are alike, its folder in full if need be.

    Metric names are split at slashes, so a folder's are written as dots.
    """
    longer = [f"{pathlib.Path(source.folder).name}#{source.split}" for source in sources]
    full = [f"{source.folder}#{source.split}".replace("/", ".") for source in sources]
    names = list(short)
    for choice in (longer, full):
        counts = collections.Counter(names)
        names = [
            other if counts[name] > 1 else name for name, other in zip(names, choice, strict=True)
        ]
    return names
