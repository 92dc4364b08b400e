# SPDX-License-Identifier: Apache-2.0
"""The caption cleaner changes white space and control characters, and nothing else."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.data.prepare.captions import MAX_CHARACTERS, clean_caption, fault_of


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  A dog .\n", "A dog ."),
        ("two\t\u00a0 words\r\nhere", "two words here"),
        ("nul\x00 and bell\x07", "nul and bell"),
        ("line\x0bfeed\x85next", "line feed next"),
        ("\ufeffmark", "mark"),
        ("kept: &amp; É 犬 👩\u200d🚀", "kept: &amp; É 犬 👩\u200d🚀"),
    ],
)
def test_known_captions(raw, cleaned):
    assert clean_caption(raw) == cleaned


@given(st.text())
def test_cleaning_is_stable_and_drops_no_visible_character(raw):
    cleaned = clean_caption(raw)
    assert clean_caption(cleaned) == cleaned
    assert cleaned == cleaned.strip()
    assert not any(unicodedata.category(c) == "Cc" for c in cleaned)
    visible = [c for c in raw if not c.isspace() and unicodedata.category(c) != "Cc"]
    assert [c for c in cleaned if c != " "] == [c for c in visible if c != "\ufeff"]


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        ("a dog", None),
        ("", "caption_empty"),
        (" \t\x00\n", "caption_empty"),
        ("x" * MAX_CHARACTERS + "  \n", None),
        ("x" * (MAX_CHARACTERS + 1), "caption_too_long"),
        ("caf\udce9", "caption_not_utf8"),
    ],
)
def test_faults(raw, fault):
    assert fault_of(raw) == fault
