# SPDX-License-Identifier: Apache-2.0
"""Lists read element by element are those that the json module reads at once."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cots_jax.data.prepare import json_stream
from cots_jax.data.prepare.json_stream import list_elements
from cots_jax.errors import UserError

many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def few_characters_at_a_time(monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 3)


@many
@given(
    st.dictionaries(st.text(max_size=5), value, max_size=4),
    st.lists(value, max_size=5),
    st.sampled_from([None, 1]),
)
def test_the_elements_are_those_of_the_json_module(tmp_path, others, wanted, indent):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**others, "images": wanted}, indent=indent))
    assert list(list_elements(path, "images")) == wanted


@many
@given(st.lists(value, min_size=1, max_size=3), st.data())
def test_a_cut_file_is_never_whole(tmp_path, wanted, data):
    text = json.dumps({"images": wanted})
    (tmp_path / "t.json").write_text(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(UserError, match="is no whole JSON object"):
        list(list_elements(tmp_path / "t.json", "images"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "'\\[' stands where '{' should"),
        ('{"images": [1,]}', "a comma stands before ']'"),
        ('{"images": [1 2]}', "'2' stands where ',' should"),
        ('{"images": 3}', 'has no list "images"'),
        ('{"a": [1]}', 'has no list "images"'),
        ('{"images": ' + "[" * 100_000, "no whole JSON object"),
        ("\0\0", "no whole JSON object"),
    ],
)
def test_other_files_say_what_is_wrong(tmp_path, text, words):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=words):
        list(list_elements(tmp_path / "t.json", "images"))


def test_a_value_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MOST", 100)
    (tmp_path / "t.json").write_text('{"images": ["' + "x" * 10_000)
    with pytest.raises(UserError, match="no whole JSON object"):
        list(list_elements(tmp_path / "t.json", "images"))
