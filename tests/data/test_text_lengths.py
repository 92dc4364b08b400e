# SPDX-License-Identifier: Apache-2.0
"""How long texts are is counted before anything is cut, and said where it matters."""

import io

import numpy as np
import PIL.Image
import pytest

from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.prepare.write import Plan, prepare_folder
from cots_jax.data.records import Record
from cots_jax.data.text_lengths import TextLengths, text_lengths
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.switches import Cache

WORDS = 30  # of the longest caption; picture k has captions of k + 1 words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "PNG")

    def fill(writer):
        for count in range(1, WORDS + 1):
            captions = (" ".join(["dog"] * count),)
            name = str(count)
            writer.add(
                "train",
                Record(
                    id=name,
                    image=file.getvalue(),
                    captions=captions,
                    raw_captions=captions,
                    group=name,
                    group_id=writer.group_id(name),
                    source_row=name,
                ),
            )

    path = tmp_path_factory.mktemp("data") / "texts"
    prepare_folder(path, Plan("texts", "test", "none", 10, {}), fill)
    return str(path)


@pytest.fixture(params=[Cache.MEMORY, Cache.NONE])
def make(folder, request):
    def table(length):
        tokenizer = train_wordpiece(["dog"], 100)
        sources = [Source(folder, "train")]
        return PairTable(sources, tokenizer, size=8, length=length, cache=request.param)

    return table


def test_every_token_counts_whether_it_is_cut_or_not(make):
    with make(10) as table:
        found = text_lengths(table)
        rows = table.texts(np.arange(WORDS, dtype=np.int32)).length
    assert sorted(found.tokens) == [count + 2 for count in range(1, WORDS + 1)]
    assert found.cut == WORDS - 8
    assert np.array_equal(np.minimum(found.tokens, 10), rows)


def test_some_of_many_are_spaced_evenly_with_both_ends(make):
    with make(10) as table:
        assert text_lengths(table, most=3).tokens.tolist() == [3, 17, 32]


def test_a_lost_end_is_said_with_the_key_that_mends_it():
    said = TextLengths(np.array([5, 5, 5, 21]), 16).words()
    assert "7.8 of 16 tokens" in said and "25 % are longer and lose their end" in said
    assert "21 tokens; config.data.text_length" in said


def test_unknown_words_are_said(make):
    with make(WORDS + 2) as table:
        assert "unknown" not in text_lengths(table).words()
        assert table.tokenizer.unknown(["dog ω dog зебра", "dog", ""]).tolist() == [2, 0, 0]
    said = TextLengths(np.array([12, 12]), 16, unknown=5).words()
    assert "25% of the tokens are unknown to the tokenizer" in said
    assert "config.data.tokenizer" in said


def test_padding_is_said_with_a_length_that_holds_all_that_were_seen():
    found = TextLengths(np.array([9, 12, 24]), 80)
    assert found.enough == 32
    assert "--config.data.text_length=32 would be faster" in found.words()


@pytest.mark.parametrize("length", [24, 30, 32])
def test_nothing_is_proposed_where_nothing_is_to_be_had(length):
    said = TextLengths(np.array([9, 12, 24]), length).words()
    assert said == f"texts: 15.0 of {length} tokens at the mean"
