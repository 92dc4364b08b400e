# SPDX-License-Identifier: Apache-2.0
"""The caption cleaner and what makes a caption unfit."""

import unicodedata

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
