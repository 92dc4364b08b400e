# SPDX-License-Identifier: Apache-2.0
"""What the filter drops is listed once, by the user's own ids."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.records import Record
from cots_jax.errors import UserError
from cots_jax.train.dropped import FILE, DroppedLog, Judged

RECORDS = [
    Record("a.png", b"", ("eins", "zwei"), ("eins", "zwei"), "a", 0, "1"),
    Record("b.png", b"", ("drei",), ("drei",), "b", 1, "2"),
]


class Table(PairTable):
    """Three pairs of two records and two sources."""

    def __init__(self):
        self.record_of_pair = np.array([0, 0, 1])
        self.caption_of_pair = np.array([0, 1, 0])
        self.source_of_pair = np.array([0, 0, 1])
        self.sources = (Source("data/x", "train"), Source("data/y", "train"))

    def record(self, row):
        return RECORDS[row]


def judged(*dropped):
    return Judged(
        jnp.arange(3),
        jnp.isin(jnp.arange(3), jnp.asarray(dropped, jnp.int32)),
        jnp.array([0.25, -0.5, 0.125]),
        jnp.array([0.375, 0.375, 0.75]),
    )


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_dropped_pair_is_named(tmp_path):
    log = DroppedLog(tmp_path, 0, Table())
    log.ask(1, judged())
    log.ask(2, judged(1, 2))
    log.sync()
    assert lines(tmp_path) == [
        {
            "step": 2,
            "pair": 1,
            "id": "a.png",
            "caption": "zwei",
            "source": "data/x",
            "similarity": -0.5,
            "threshold": 0.375,
        },
        {
            "step": 2,
            "pair": 2,
            "id": "b.png",
            "caption": "drei",
            "source": "data/y",
            "similarity": 0.125,
            "threshold": 0.75,
        },
    ]
    log.close()


def test_a_run_that_goes_on_writes_no_line_twice(tmp_path):
    log = DroppedLog(tmp_path, 0, Table())
    for step in (1, 2, 3):
        log.ask(step, judged(0))
    log.sync()
    log.close()
    log = DroppedLog(tmp_path, 2, Table())
    log.ask(3, judged(0))
    log.sync()
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_without_a_dropped_pair_there_is_no_file(tmp_path):
    log = DroppedLog(tmp_path, 0, Table())
    log.ask(1, judged())
    log.sync()
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_refusing_disk_is_said(tmp_path):
    log = DroppedLog(tmp_path / "gone", 0, Table())
    log.ask(1, judged(0))
    with pytest.raises(UserError, match=r"dropped.jsonl .*make room"):
        log.settle()
