# SPDX-License-Identifier: Apache-2.0
"""The grammar of conditions, against what it says it means."""

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.errors import UserError
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import IMAGES, Facts, Row, Storage, write_facts, write_part
from cots_jax.retrieval.where import Both, Condition, Either, Not, Test, parse_condition

ROWS = [
    Row("a/1.png", ("A Dog", "cat"), "", "", source="x:1"),
    Row("a/it's.png", (), "", ""),
    Row("b/2.mp4", ("dog%",), "", "", start=0.0, end=8.0),
    Row("b/2.mp4", ("", "DOGS"), "", "", start=8.0, end=16.5),
    Row("ä/É.png", ("Straße é",), "", "", source="y:2"),
]
COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Rows of all kinds, in two parts."""
    folder, eye = tmp_path_factory.mktemp("index"), np.eye(5, dtype=np.float32)
    parts = tuple(
        write_part(folder, number, ROWS[rows], {IMAGES: eye[rows]}, {})
        for number, rows in enumerate((slice(0, 3), slice(3, 5)))
    )
    write_facts(folder, Facts({}, {}, {}, 5, Storage.FLOAT32, {}, parts))
    return Index.open(folder)


def passes(row: Row, condition: Condition) -> bool:
    """What the grammar's docstring says, of one row."""
    if isinstance(condition, Not):
        return not passes(row, condition.part)
    if isinstance(condition, Both):
        return all(passes(row, part) for part in condition.parts)
    if isinstance(condition, Either):
        return any(passes(row, part) for part in condition.parts)
    name, value = condition.operator, condition.value
    if name == "!=":
        return not passes(row, Test(condition.column, "=", value))
    if condition.column in ("start", "end"):
        found = getattr(row, condition.column)
        compare = COMPARED.get(name, operator.eq)
        return found is not None and compare(found, value)
    assert isinstance(value, str)
    texts = {"path": [row.name], "caption": row.captions, "source": [row.source or None]}
    checks = {
        "=": lambda text: text == value,
        "has": lambda text: value.lower() in text.lower(),
        "starts": lambda text: text.startswith(value),
        "ends": lambda text: text.endswith(value),
    }
    return any(text is not None and checks[name](text) for text in texts[condition.column])


def written(condition: Condition) -> str:
    """A condition as a user could write it."""
    match condition:
        case Not(part):
            return f"not ({written(part)})"
        case Both(parts):
            return " and ".join(f"({written(part)})" for part in parts)
        case Either(parts):
            return " or ".join(f"({written(part)})" for part in parts)
        case Test(column, name, value):
            quote = "" if isinstance(value, float) else '"' if "'" in value else "'"
            return f"{column} {name} {quote}{value}{quote}"


words = st.sampled_from(
    ["", "a", "dog", "DOG", "%", "_", ".", "it's", "É", "x:1", "b/2.mp4", "cat"]
)
texts = st.builds(
    Test,
    st.sampled_from(["path", "caption", "source"]),
    st.sampled_from(["=", "!=", "has", "starts", "ends"]),
    words,
)
numbers = st.builds(
    Test,
    st.sampled_from(["start", "end"]),
    st.sampled_from(["=", "!=", *COMPARED]),
    st.sampled_from([0.0, 8.0, 16.5, 99.25]),
)
conditions = st.recursive(
    texts | numbers,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(Both, st.lists(inner, min_size=2, max_size=3))
        | st.builds(Either, st.lists(inner, min_size=2, max_size=3))
    ),
    max_leaves=6,
)


@given(conditions)
def test_a_mask_is_what_the_grammar_says(index: Index, condition: Condition) -> None:
    expected = [passes(row, condition) for row in ROWS]
    assert index.where(written(condition)).tolist() == expected, written(condition)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('caption has "dog" and not path starts "b/"', [0]),
        ('path ends ".png" and caption has "cat" or start>=8', [0, 3]),  # `and` before `or`
        ("path ends '.png' and (caption has 'cat' or source = 'y:2')", [0, 4]),
        ("not start < 8", [0, 1, 3, 4]),
        ("not not caption = 'cat'", [0]),
        ('  path  =\t"a/it\'s.png" ', [1]),
    ],
)
def test_conditions_as_people_write_them(index: Index, text: str, rows: list[int]) -> None:
    assert np.flatnonzero(index.where(text)).tolist() == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks path, caption, source, start, end, `not` or `\\(` at its end"),
        ("colour = 'red'", "lacks path, caption, .* before \"colour = 'red'\""),
        ("path", "lacks one of != = ends has starts after path at its end"),
        ("path has dog", "lacks text in quotation marks before 'dog'"),
        ("path has 'dog", "lacks text in quotation marks"),
        ("path < 'a'", "lacks one of .* after path before"),
        ("start has 'a'", "lacks one of != < <= = > >= after start"),
        ("start = 'a'", "lacks a number before"),
        ("start < -1", "lacks a number before '-1'"),
        ("(path = 'a'", "lacks `\\)`, `and` or `or` at its end"),
        ("path = 'a' caption = 'b'", "lacks `and`, `or` or the end before"),
        ("path = 'a')", "lacks `and`, `or` or the end before '\\)'"),
        ("not " * 60 + "path = 'a'", "more than 50 levels deep"),
        ("(" * 2000, "more than 50 levels deep"),
    ],
)
def test_what_is_no_condition(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_condition(text)


@given(st.text())
def test_any_text_is_a_condition_or_an_error_of_the_user(text: str) -> None:
    try:
        parse_condition(text)
    except UserError as error:
        assert "--where" in str(error)
