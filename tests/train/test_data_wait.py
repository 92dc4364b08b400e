# SPDX-License-Identifier: Apache-2.0
"""A run says how long its devices waited for data: slow reading shows."""

import json
import pathlib
import time

import pytest
from doors import run_main
from tiny_world import CONFIG, Tiny

from cots_jax.data import pipeline

STEPS, SLOW = 8, 0.5  # seconds a batch: far more than a step takes
FLAGS = (f"--config={CONFIG}", f"--config.duration={STEPS} steps", "--config.log_every=1 steps",
    "--config.evaluate_every=200%", "--config.diagnose_every=200%")  # fmt: skip


def test_slow_reading_shows(
    tiny: Tiny, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.copy(tmp_path, "tiny-dvae")
    load = pipeline.load_pairs

    def slowly(*given):
        time.sleep(SLOW)
        return load(*given)

    monkeypatch.setattr(pipeline, "load_pairs", slowly)
    said = run_main(tmp_path, *FLAGS, "--workdir=runs/slow", "--config.data.threads=1")
    assert said.status == 0, said.err
    rows = (tmp_path / "runs/slow/metrics.jsonl").read_text().splitlines()
    last = [row for row in map(json.loads, rows) if "data_wait" in row][-1]
    assert last["data_wait"] > 0.3
