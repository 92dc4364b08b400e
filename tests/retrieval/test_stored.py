# SPDX-License-Identifier: Apache-2.0
"""What an evaluation left behind is used again only where nothing has changed since."""

import dataclasses
import json

import numpy as np
import pytest

from cots_jax.errors import UserError
from cots_jax.retrieval.accuracy import class_protocol, measure
from cots_jax.retrieval.answers import Answers
from cots_jax.retrieval.metrics import Ranks, summarise
from cots_jax.retrieval.protocols import describe_set, make_result, results_json, write_results
from cots_jax.retrieval.report import LevelCheck, write_report
from cots_jax.retrieval.stored import Stored, refuse_foreign, store, stored

MADE_FROM = {"version": "1", "step": 3, "checkpoint": "abc", "data": ["a#val 123"]}


def some_results():
    ids = np.arange(3)
    protocol = describe_set(ids, ids, dataset="d", split="val", towers="online", resolution=8)
    ranks = Ranks(image_to_text=ids + 1, text_to_image=ids + 1)
    return [make_result("val", protocol, summarise(ranks))]


def some_findings():
    return Stored(some_results(), [LevelCheck("words", 1.5, "below 2", "nats", alive=True)])


@pytest.fixture
def out(tmp_path):
    """A folder with an evaluation in it."""
    write_report(tmp_path / "report.html", title="t", summary_facts={}, results=some_results())
    store(tmp_path, some_findings(), MADE_FROM)
    return tmp_path


def test_what_was_stored_comes_back(out):
    assert stored(out, MADE_FROM) == some_findings()
    refuse_foreign(out)


def test_further_evaluations_come_back_beside_the_results(tmp_path):
    write_report(tmp_path / "report.html", title="t", summary_facts={}, results=some_results())
    answers, label = Answers(np.array([1, 2, 3]), np.array([1, 0, 0])), np.array([0, 1, 1])
    protocol = class_protocol(some_results()[0].protocol, 3, 2, {"name": "zero-shot"})
    accuracy = measure("val", protocol, answers, label, ("cat", "dog"))
    found = dataclasses.replace(
        some_findings(),
        zero_shot=(accuracy,),
        linear_probe=(accuracy,),
        breakdown=({"name": "val"},),
        notes=("LEAKAGE: 3 of 3",),
    )
    store(tmp_path, found, MADE_FROM)
    assert stored(tmp_path, MADE_FROM) == found
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["results"] == results_json(some_results())["results"]
    del content["zero_shot"][0]["top1"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert stored(tmp_path, MADE_FROM) is None


@pytest.mark.parametrize(
    "change", [{"version": "2"}, {"step": 4}, {"checkpoint": "abd"}, {"data": ["a#val 124"]}]
)
def test_other_origins_are_told_apart(out, change):
    assert stored(out, MADE_FROM | change) is None


@pytest.mark.parametrize("text", [None, '<dl class="facts">of another run'])
def test_a_report_that_went_or_changed_is_noticed(out, text):
    (out / "report.html").unlink()
    if text is not None:
        (out / "report.html").write_text(text)
    assert stored(out, MADE_FROM) is None


@pytest.mark.parametrize("text", [None, "{", "[]", '{"results": []}', "\udcff"])
def test_results_of_unknown_origin_are_not_used(out, text):
    (out / "results.json").unlink()
    if text is not None:
        (out / "results.json").write_bytes(text.encode(errors="surrogateescape"))
    assert stored(out, MADE_FROM) is None


def test_the_rows_keep_their_promised_form(out):
    content = json.loads((out / "results.json").read_text())
    assert content["results"] == results_json(some_results())["results"]


def test_results_without_an_origin_are_ours_too(tmp_path):
    write_results(tmp_path / "results.json", some_results())
    refuse_foreign(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("results.json", '{"accuracy": 1}'), ("results.json", "{"), ("report.html", "<p>mine</p>")],
)
def test_files_of_others_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"not ours to replace .*{name}.*another --out"):
        refuse_foreign(tmp_path)
