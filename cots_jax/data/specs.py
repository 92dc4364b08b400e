# SPDX-License-Identifier: Apache-2.0
"""How configs and flags name prepared data: `FOLDER#SPLIT`, several joined by commas."""

import pathlib
from collections.abc import Sequence

from cots_jax.data.pipeline import Source
from cots_jax.errors import UserError


def parse_sources(text: str, key: str, prepare: str = "") -> list[Source]:
    """The sources that `text` names; empty text is none.

    Raises UserError where a folder is missing; `prepare` is the command that makes it.
    """
    sources = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        folder, mark, split = part.rpartition("#")
        if not mark or not folder or not split:
            raise UserError(f"{key} = {text!r}: write FOLDER#SPLIT, e.g. data/emoji#train")
        sources.append(Source(folder, split))
    missing = [source.folder for source in sources if not pathlib.Path(source.folder).exists()]
    if missing:
        remedy = f"make it with: {prepare}" if prepare else "python -m cots_jax.prepare makes one"
        raise UserError(f"{key}: there is no folder {missing[0]}; {remedy}")
    return sources


def lineage_of(sources: Sequence[Source], fingerprints: Sequence[str]) -> tuple[str, ...]:
    """Names a training set so that its numbers can be traced."""
    return tuple(
        f"{source.folder}#{source.split} ({fingerprint[:12]})"
        for source, fingerprint in zip(sources, fingerprints, strict=True)
    )
