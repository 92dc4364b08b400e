# SPDX-License-Identifier: Apache-2.0
"""What evaluation sets and sources are called."""

import pytest

from cots_jax.data.specs import parse_sources
from cots_jax.retrieval.evaluation import distinct_names


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ("", []),
        ("a#val", ["val"]),
        ("a#val, a#test", ["val", "test"]),
        ("a#val, b#val", ["a#val", "b#val"]),
        ("a#val, b#val, b#test", ["a#val", "b#val", "test"]),
        ("x/a#val, y/a#val, b#val", ["x.a#val", "y.a#val", "b#val"]),
    ],
)
def test_sets_are_named_by_split_and_by_more_only_where_two_are_alike(
    named, wanted, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b", "x/a", "y/a"):
        (tmp_path / folder).mkdir(parents=True)
    sources = parse_sources(named, "config.data.eval")
    assert distinct_names(sources, [source.split for source in sources]) == wanted
