# SPDX-License-Identifier: Apache-2.0
"""What evaluation sets and sources are called."""

import pytest

from cots_jax.data.specs import distinct_names, parse_sources, same_sources
from cots_jax.data.weights import Measure, Weight
from cots_jax.errors import UserError


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


def test_a_split_named_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="twice"):
        parse_sources(f"{tmp_path}#val,{tmp_path}#test, {tmp_path}#val", "config.data.eval")


@pytest.mark.parametrize("other", ["a/", "./a", "b/../a", "link"])
def test_so_is_one_that_is_spelt_otherwise(other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match=f"names {tmp_path}/a#train twice"):
        parse_sources(f"a#train,{other}#train", "config.data.train")


def test_sources_may_weigh(tmp_path):
    one, other = parse_sources(f"{tmp_path}#train*3, {tmp_path}#val", "config.data.train")
    assert (one.split, one.weight) == ("train", Weight(3.0))
    assert (other.split, other.weight) == ("val", Weight(1.0))
    (share,) = parse_sources(f"{tmp_path}#train*25%", "config.data.train")
    assert share.weight == Weight(25.0, Measure.PERCENT)


@pytest.mark.parametrize("key", ["config.data.eval", "--data", "--exclude"])
def test_what_is_not_trained_on_does_not_weigh(key, tmp_path):
    with pytest.raises(UserError, match=r"only the sources of config\.data\.train may weigh"):
        parse_sources(f"{tmp_path}#val*2", key)


@pytest.mark.parametrize("weight", ["", "-1", "x", "101%"])
def test_a_weight_that_is_none_is_refused(weight, tmp_path):
    with pytest.raises(UserError, match=r"is no number from 0 .*write e\.g\. \*3 .* or \*25%"):
        parse_sources(f"{tmp_path}#train*{weight}", "config.data.train")


def test_a_source_named_twice_is_refused_whatever_its_weights(tmp_path):
    with pytest.raises(UserError, match="twice"):
        parse_sources(f"{tmp_path}#val*2,{tmp_path}#val", "config.data.train")


@pytest.mark.parametrize(
    ("now", "same"),
    [
        ("a#train,b#train", True),
        ("a#train*7, b#train*0", True),
        ("a#train,b#train*10%,c#train", True),
        ("a#train", False),
        ("b#train,a#train", False),
        ("a#train,c#train,b#train", False),
        ("a#val,b#train", False),
    ],
)
def test_a_run_may_go_on_with_other_weights_and_more_sources(now, same):
    assert same_sources("a#train*2,b#train", now) is same


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("prepare emoji --out=data/emoji", "python -m cots_jax.prepare makes one"),
        ("prepare emoji --out=nowhere/emo", "make it with: prepare emoji"),
        ("prepare pairs --out=FOLDER --longest_side=512", "make it with: prepare pairs"),
        ("", "python -m cots_jax.prepare makes one"),
    ],
)
def test_a_missing_folder_names_the_command_that_makes_it_and_no_other(command, said):
    with pytest.raises(UserError, match=f"there is no folder nowhere/emo; {said}"):
        parse_sources("nowhere/emo#train", "config.data.train", command)
