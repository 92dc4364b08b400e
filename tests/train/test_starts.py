# SPDX-License-Identifier: Apache-2.0
"""What a run ran on."""

import dataclasses

import jax
import pytest

from cots_jax.errors import UserError
from cots_jax.train.starts import FILE, Start, first_start, note_start, read_starts


def test_every_start_is_noted_with_what_it_ran_on(tmp_path):
    first = Start.now(0)
    note_start(tmp_path, first)
    note_start(tmp_path, dataclasses.replace(first, step=120, time=first.time + 60))
    rows = read_starts(tmp_path)
    assert [row["step"] for row in rows] == [0, 120]
    assert rows[0]["versions"]["jax"] == jax.__version__ and len(rows[0]["code"]) == 64
    assert first_start(tmp_path) == first.time


def test_a_line_that_a_kill_tore_is_left_out(tmp_path):
    (tmp_path / FILE).write_text('{"time": 5')
    assert first_start(tmp_path) is None
    (tmp_path / FILE).write_text('{"tim\n{"time": 7.5, "step": 3}\n[]\n')
    assert first_start(tmp_path) == 7.5


def test_a_run_of_older_code_has_none(tmp_path):
    assert first_start(tmp_path) is None and read_starts(tmp_path) == []


def test_a_folder_that_is_gone_is_said(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        note_start(tmp_path / "gone", Start.now(0))
