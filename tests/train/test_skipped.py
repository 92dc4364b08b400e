# SPDX-License-Identifier: Apache-2.0
"""The pairs of skipped steps are named."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cots_jax.data.pair_table import PairTable
from cots_jax.data.records import Record
from cots_jax.errors import UserError
from cots_jax.train.skipped import FILE, SkippedSteps


class Table(PairTable):
    """Of ten pairs, two for each of five records."""

    def __init__(self):
        self.record_of_pair = np.arange(10) // 2

    def record(self, row):
        return Record(f"picture-{row}", b"", ("a",), ("a",), "a", row, "1")


def order(positions):
    return 9 - positions % 10


def steps(folder, resume=0, skipped=0):
    return SkippedSteps(folder, resume, skipped, Table(), order, batch=3)


def test_only_those_that_raised_the_count_and_only_once(tmp_path):
    kept = steps(tmp_path)
    for step, count in enumerate((0, 1, 1, 2), start=1):
        kept.seen(step, jnp.int32(count))
    kept.settle(3, 1)
    kept.seen(5, jnp.int32(2))
    kept.settle(5, 2)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[0]["positions"] == [3, 5]
    assert rows[0]["ids"] == ["picture-3", "picture-2", "picture-2"]


def test_a_run_that_goes_on_writes_no_line_twice(tmp_path):
    kept = steps(tmp_path)
    for step in (1, 2, 3):
        kept.seen(step, jnp.int32(step))
    kept.settle(3, 3)
    again = steps(tmp_path, resume=2, skipped=2)
    again.seen(3, jnp.int32(3))
    again.settle(3, 3)
    rows = [json.loads(line)["step"] for line in (tmp_path / FILE).read_text().splitlines()]
    assert rows == [1, 2, 3]


def test_without_one_there_is_no_file(tmp_path):
    kept = steps(tmp_path, skipped=4)
    kept.seen(1, jnp.int32(4))
    kept.settle(1, 4)
    assert not (tmp_path / FILE).exists()


def test_a_refusing_disk_is_said(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(UserError, match=r"cannot write .*skipped\.jsonl"):
        steps(tmp_path)
