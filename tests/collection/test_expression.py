# SPDX-License-Identifier: Apache-2.0
"""The grammar of queries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.collection.expression import Term, in_words, parse_expression


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("a red car", [(1, "a red car")]),
        ("2*golden retriever - snow", [(2, "golden retriever"), (-1, "snow")]),
        ("cat + 0.5 * dog - 3*rain", [(1, "cat"), (0.5, "dog"), (-3, "rain")]),
        ("a well-known T-shirt", [(1, "a well-known T-shirt")]),
        ("half-eaten - well-done", [(1, "half-eaten"), (-1, "well-done")]),
        ('"war - and peace"', [(1, "war - and peace")]),
        ('2*"1 + 1" + x', [(2, "1 + 1"), (1, "x")]),
        ("a\t-\nb", [(1, "a"), (-1, "b")]),
    ],
)
def test_an_expression(text: str, terms: list[tuple[float, str]]) -> None:
    assert parse_expression(text) == tuple(Term(float(w), words) for w, words in terms)


@pytest.mark.parametrize(
    "text",
    [
        "a -",
        "- a",
        "+",
        "a - - b",
        "a + + b",
        "0*cat",
        'a 5" disk - b',
        '"" - a',
        "-snow",
        "C++",
        "*",
    ],
)
def test_what_is_no_expression_is_taken_literally(text: str) -> None:
    assert parse_expression(text) == (Term(1.0, text),)


def test_how_it_was_understood() -> None:
    said = in_words(parse_expression("2*golden retriever - snow + 0.5*dog"))
    assert said == "2 × 'golden retriever' − 'snow' + 0.5 × 'dog'"


@given(st.text())
def test_any_text_has_terms(text: str) -> None:
    terms = parse_expression(text)
    assert terms
    assert all(term.weight for term in terms)
    if len(terms) > 1:
        assert all(term.text.strip() == term.text != "" for term in terms)


words = st.text(st.characters(exclude_characters='"*', exclude_categories=["Z", "C"]), min_size=1)
phrases = st.lists(words.filter(lambda word: word not in "+-"), min_size=1, max_size=4).map(
    " ".join
)
weights = st.integers(1, 9999).map(lambda n: n / 100)


@given(st.lists(st.tuples(weights, st.booleans(), st.booleans(), phrases), min_size=1))
def test_what_is_written_is_read(parts: list[tuple[float, bool, bool, str]]) -> None:
    written, terms = "", []
    for number, (weight, away, quoted, phrase) in enumerate(parts):
        away = away and number > 0
        body = f'"{phrase}"' if quoted else phrase
        written += f" {'-' if away else '+'} " if number else ""
        written += body if weight == 1 else f"{weight}*{body}"
        terms.append(Term(-weight if away else weight, phrase))
    assert parse_expression(written) == tuple(terms)


@given(words)
def test_a_hyphen_within_a_word_is_no_operator(word: str) -> None:
    assert parse_expression(f"{word}-x {word}") == (Term(1.0, f"{word}-x {word}"),)
