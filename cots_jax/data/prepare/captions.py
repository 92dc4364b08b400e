# SPDX-License-Identifier: Apache-2.0
"""The caption cleaner and what makes a caption unfit."""

import unicodedata
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cots_jax.data.prepare.samples import BadRow

MAX_CHARACTERS = 1000  # own choice: some 200 words; longer ones are page text, not captions
CONTROLS = [code for code in range(0xA0) if unicodedata.category(chr(code)) == "Cc"]
DROPPED = dict.fromkeys([0xFEFF, *(code for code in CONTROLS if not chr(code).isspace())])


def clean_caption(text: str) -> str:
    """The caption as models read it (own choice, and all that is done to it).

    Control characters (Unicode category Cc) and byte-order marks go, except that those which are
    white space count as such; every run of white space becomes one space; the ends are stripped.
    Nothing is unescaped, and lower-casing and accents are the tokenizer's business.
    """
    return " ".join(text.translate(DROPPED).split())


def fault_of(raw: str) -> str | None:
    """Why a caption is dropped (`caption_not_utf8`, `caption_empty`, `caption_too_long`), or
    None for a good one."""
    if not is_unicode(raw):
        return "caption_not_utf8"
    cleaned = clean_caption(raw)
    if not cleaned:
        return "caption_empty"
    if len(cleaned) > MAX_CHARACTERS:
        return "caption_too_long"
    return None


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; bytes that were not stand in it as surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Repeats(StrEnum):
    """What becomes of a caption that its picture has already."""

    DROP = "drop"
    KEEP = "keep"  # published protocols count them


@dataclass
class Captions:
    """The good captions of one picture, and a reject for each of the others."""

    cleaned: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    rejects: list[BadRow] = field(default_factory=list)


def gather_captions(
    raws: Any, source_row: str, id: str, repeats: Repeats = Repeats.DROP
) -> Captions:
    """The captions of a picture out of a text or a list of texts, as a file or a column has
    them; anything else is rejected as `no_caption` or `caption_no_text`."""
    found = Captions()
    if isinstance(raws, str):
        raws = [raws]
    if not isinstance(raws, list) or not raws:
        found.rejects.append(BadRow("no_caption", source_row, id))
        return found
    for raw in raws:
        if not isinstance(raw, str):
            found.rejects.append(BadRow("caption_no_text", source_row, id))
            continue
        add_caption(found, raw, source_row, id, repeats)
    return found


def add_caption(found: Captions, raw: str, source_row: str, id: str, repeats: Repeats) -> None:
    """Takes one more caption of a picture, or lists why not."""
    fault = fault_of(raw)
    cleaned = clean_caption(raw)
    if fault is None and repeats is Repeats.DROP and cleaned in found.cleaned:
        fault = "caption_duplicate"
    if fault is None:
        found.cleaned.append(cleaned)
        found.raw.append(raw)
    else:
        found.rejects.append(BadRow(fault, source_row, id, (("caption", raw[:200]),)))
