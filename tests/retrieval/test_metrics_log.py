# SPDX-License-Identifier: Apache-2.0
"""Curves from metrics.jsonl: torn lines, missing keys, resumed runs."""

import json

import pytest

from cots_jax.errors import UserError
from cots_jax.retrieval.curves import draw
from cots_jax.retrieval.metrics_log import curves_from_metrics, read_metrics


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows, tail=""):
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
        return path

    return write_rows


def by_title(curves):
    return {curve.title: curve for curve in curves}


def test_all_keys_become_curves(write):
    row = {
        "loss": 5.0, "loss/instance": 3.0, "loss/mvm": 4.0, "loss/mlm": 2.0, "loss/task": 0.1,
        "chance/instance": 6.9, "chance/mvm": 6.2, "chance/mlm": 7.6, "kept/web": 0.9,
        "kept/clean": 1.0, "pairs_per_second": 1000.0, "data_wait": 0.02, "temperature": 0.05,
        "gradient_share/instance": 0.7, "gradient_share/mvm": 0.1, "gradient_share/mlm": 0.1,
        "gradient_share/task": 0.1, "learning_rate": 1e-3, "weight/mlm": 0.3,
        "recall/dev/image_to_text/r1": 12.0, "recall/dev/text_to_image/r1": 14.0,
    }  # fmt: skip
    curves = by_title(curves_from_metrics(write({"step": 10} | row, {"step": 20} | row)))
    assert len(curves) == 13
    recall = curves["Recall on dev"]
    assert [s.values for s in recall.series] == [[12.0, 12.0], [14.0, 14.0]]
    assert curves["Loss: masked vision modelling"].chance.values == [6.2, 6.2]
    assert curves["Loss: task (KL alignment)"].chance is None
    kept = curves["Pairs that the momentum filter kept"]
    assert {s.name: s.values[0] for s in kept.series} == {"web": 90.0, "clean": 100.0}
    assert len(curves["Share of the towers' gradient norm"].series) == 4
    assert curves["Time spent waiting for data"].series[0].values == [2.0, 2.0]
    for curve in curves.values():
        draw(curve, 20)


def test_missing_keys_leave_gaps_and_no_empty_charts(write):
    path = write({"step": 1, "loss": 3.0}, {"step": 2}, {"step": 3, "loss": 1.0, "loss/mlm": 2.0})
    curves = by_title(curves_from_metrics(path))
    assert set(curves) == {"Total loss", "Loss: masked language modelling"}
    assert list(curves["Total loss"].series[0].steps) == [1, 3]


@pytest.mark.parametrize("tail", ['{"step": 3, "lo', "\x00\x00", "[1]\n", '{"loss": 1}\n', "\n"])
def test_torn_or_foreign_lines_are_left_out(write, tail):
    rows = read_metrics(write({"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, tail=tail)).rows
    assert [row["step"] for row in rows] == [1, 2]


def test_a_resumed_run_counts_each_step_once(write):
    path = write(
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 9.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "recall/dev/image_to_text/r1": 5.0},
    )
    series = by_title(curves_from_metrics(path))["Total loss"].series[0]
    assert (list(series.steps), list(series.values)) == ([1, 2], [3.0, 2.0])
    assert "Recall on dev" in by_title(curves_from_metrics(path))


def test_other_objectives_show_under_their_own_name(write):
    curves = by_title(curves_from_metrics(write({"step": 1, "loss/reconstruction": 0.3})))
    assert set(curves) == {"Loss: reconstruction"}


def test_an_absent_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="train first"):
        curves_from_metrics(tmp_path / "metrics.jsonl")
