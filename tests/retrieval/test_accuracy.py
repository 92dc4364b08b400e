# SPDX-License-Identifier: Apache-2.0
"""Accuracies against plain counting, their intervals, and the shape in which they are kept."""

import dataclasses
import json

import numpy as np
import pytest

from cots_jax.retrieval.accuracy import (
    accuracy_intervals,
    accuracy_json,
    accuracy_table,
    class_protocol,
    measure,
    read_accuracy,
)
from cots_jax.retrieval.accuracy_page import draw_accuracies
from cots_jax.retrieval.answers import Answers
from cots_jax.retrieval.protocols import Leakage, describe_set

LABELS = ("cat", "dog", "<owl>", "nobody")
LABEL = np.array([0, 0, 0, 1, 1, 2])
ANSWERS = Answers(rank=np.array([1, 2, 7, 1, 1, 5]), wrong=np.array([1, 1, 2, 0, 0, 1]))


def some_accuracy(leakage: Leakage | None = None, method=None):
    group = np.arange(6)
    whole = describe_set(
        group, group, dataset="d", split="val", towers="online", resolution=32, lineage=("d#train",)
    )
    protocol = class_protocol(
        dataclasses.replace(whole, leakage=leakage), 6, 4,
        method or {"name": "zero-shot", "prompts": ["{}"], "prompts_cut": 2, "text_length": 8},
    )  # fmt: skip
    return measure("val", protocol, ANSWERS, LABEL, LABELS)


def test_the_figures_are_those_of_counting():
    found = some_accuracy()
    assert found.top1 == pytest.approx(50)
    assert found.top5 == pytest.approx(100 * 5 / 6)
    assert found.mean_per_class_recall == pytest.approx((100 / 3 + 100 + 0) / 3)
    assert [(row.label, row.pictures) for row in found.per_class] == [
        ("cat", 3), ("dog", 2), ("<owl>", 1),
    ]  # fmt: skip
    assert [row.top5 for row in found.per_class] == pytest.approx([200 / 3, 100, 100])
    assert found.without_pictures == ("nobody",)
    confused = [(pair.label, pair.answer, pair.pictures) for pair in found.confusions]
    assert confused == [("cat", "dog", 1), ("cat", "<owl>", 1), ("<owl>", "dog", 1)]


def test_the_most_frequent_confusion_stands_first():
    answers = Answers(np.array([2, 2, 2, 2, 2, 1]), np.array([1, 2, 2, 0, 0, 0]))
    found = measure("val", some_accuracy().protocol, answers, np.array([0, 0, 0, 1, 1, 2]), LABELS)
    assert [pair.pictures for pair in found.confusions] == [2, 2, 1]


def test_intervals_hold_what_they_say():
    rng = np.random.default_rng(0)
    rank = np.where(rng.random(400) < 0.7, 1, rng.integers(2, 9, 400))
    label = rng.integers(0, 10, 400)
    ends = accuracy_intervals(rank, label, 12)
    top1 = 100 * np.mean(rank == 1)
    error = 100 * np.sqrt(0.7 * 0.3 / 400)
    assert ends["top1"].low == pytest.approx(top1 - 1.96 * error, abs=1)
    assert ends["top1"].high == pytest.approx(top1 + 1.96 * error, abs=1)
    assert ends["mean_per_class_recall"].low < top1 < ends["mean_per_class_recall"].high
    assert ends == accuracy_intervals(rank, label, 12)
    sure = accuracy_intervals(np.ones(5, int), np.zeros(5, int), 1)
    assert {end for interval in sure.values() for end in dataclasses.astuple(interval)} == {100.0}


@pytest.mark.parametrize("leakage", [None, Leakage("d", "train", 3, 1)])
def test_a_row_comes_back(leakage):
    found = some_accuracy(leakage)
    row = json.loads(json.dumps(accuracy_json(found)))
    assert read_accuracy(row) == found
    assert ("leakage" in row["protocol"]) == (leakage is not None)
    assert {"top1", "top5", "mean_per_class_recall", "interval_95", "per_class"} <= set(row)


def test_the_table_says_by_what_it_was_measured():
    lines = accuracy_table("zero-shot", [some_accuracy()]).splitlines()
    assert lines[0].split() == ["zero-shot", "top", "1", "95", "%", "top", "5", "per", "class",
                                "95", "%", "pictures", "classes"]  # fmt: skip
    assert "1 prompt (2 cut at 8 tokens), 1 class without a picture here" in lines[-1]
    method = {"name": "linear probe", "trained_on": "d#train (12)", "strength": 1e-3}
    method["pictures_also_in_training"] = 2
    said = accuracy_table("linear probe", [some_accuracy(method=method)] * 2).splitlines()
    assert len(said) == 6
    assert "trained on d#train (12), L2 strength 0.001, 2 PICTURES IN BOTH" in said[-1]


def test_the_page_escapes_and_warns():
    page = draw_accuracies([some_accuracy(Leakage("d", "train", 3, 1))])
    assert "<owl>" not in page
    assert "&lt;owl&gt;" in page
    assert "Leakage: 3 of 6 pictures are in d#train" in page
    assert "Leakage" not in draw_accuracies([some_accuracy()])
    assert draw_accuracies([]) == ""
