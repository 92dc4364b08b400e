# SPDX-License-Identifier: Apache-2.0
"""Angles between the objectives' gradients."""

import json

import numpy as np
import pytest
from tiny_world import Tiny

from benchmarks.study import gradients
from benchmarks.study.gradients import _compare, main


def test_angles_by_hand():
    """Instance pulls along x, one objective along y, one against it, one now so and now so."""
    drawn = {
        "instance": [[1.0, 0.0], [3.0, 0.0]],
        "mlm": [[0.0, 2.0], [0.0, 2.0]],
        "task": [[-1.0, 0.0], [-1.0, 0.0]],
        "mvm": [[1.0, 1.0], [1.0, -1.0]],
    }
    each = {
        name: [{tower: np.array(one) for tower in gradients.TOWERS} for one in both]
        for name, both in drawn.items()
    }
    found = {(one.objective, one.tower): one for one in _compare(7, each)}
    assert {one.step for one in found.values()} == {7}
    with_instance = {n: found[n, "text"].with_instance for n in drawn}
    assert with_instance == pytest.approx({"instance": 1, "mlm": 0, "task": -1, "mvm": 1})
    assert found["instance", "image"].norm == 2
    assert found["mlm", "image"].with_itself == pytest.approx(1)
    assert found["mvm", "image"].with_itself == pytest.approx(0)


@pytest.mark.slow
def test_every_kept_checkpoint_is_looked_at(tiny: Tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tiny.root)
    out = tmp_path / "new" / "angles.json"
    assert main(["runs/tiny", "--batches=2", f"--out={out}"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert {row[0].strip("| ") for row in rows} == {"35", "40"}  # the config keeps two
    assert {(row[1], row[2]) for row in rows} == {
        (name, tower) for name in ("instance", "mvm", "mlm", "task") for tower in ("image", "text")
    }
    assert all(-1 <= float(row[4]) <= 1.0001 for row in rows)
    stored = json.loads(out.read_text())
    assert len(stored["rows"]) == len(rows)
    assert stored["config"]["name"] == "tiny"


def test_a_folder_without_a_run_is_said(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "is no training folder" in capsys.readouterr().err
