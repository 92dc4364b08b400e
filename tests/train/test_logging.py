# SPDX-License-Identifier: Apache-2.0
"""The metrics log: strict JSON, nothing lost to a kill, no step twice after a resume."""

import errno
import json
import math
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from doors import run_apart
from tensorboardX.writer import Event, SessionLog

from cots_jax.errors import UserError
from cots_jax.train import logging
from cots_jax.train.logging import MetricsLog


def log_steps(workdir: Path, *steps: int, resume_step: int = 0) -> None:
    log = MetricsLog(workdir, resume_step)
    for step in steps:
        log.write(step, {"loss": 1 / step})
    log.close()


def logged(workdir: Path) -> list[int]:
    return [row["step"] for row in logging.read(workdir / "metrics.jsonl")]


def read_events(file: Path) -> list[Event]:
    """TensorBoard's records: length, checksum, bytes, checksum."""
    data, events = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


class TestLine:
    def test_nine_digits_give_back_every_float32(self) -> None:
        bits = np.random.default_rng(0).integers(0, 2**32, 2000, np.uint32).view(np.float32)
        numbers = bits[np.isfinite(bits)]
        row = {str(index): float(value) for index, value in enumerate(numbers)}
        back = json.loads(logging.to_line(3, row))
        assert back.pop("step") == 3
        np.testing.assert_array_equal(np.array(list(back.values()), np.float32), numbers)

    def test_nine_digits_and_no_more(self) -> None:
        assert logging.to_line(1, {"loss": 1 / 3}) == '{"step": 1, "loss": 0.333333333}\n'

    def test_what_json_cannot_hold_is_null_and_listed(self) -> None:
        line = logging.to_line(1, {"a": math.nan, "b": 2.0, "c": -math.inf})
        expected = {"step": 1, "a": None, "b": 2.0, "c": None, "nonfinite": ["a", "c"]}
        assert json.loads(line, parse_constant=pytest.fail) == expected

    def test_a_rate_that_is_not_known_yet_is_null_and_not_listed(self) -> None:
        """Else the first line after a restart would differ from that of an undisturbed run."""
        line = logging.to_line(1, {"loss": 2.0, "pairs_per_second": math.nan})
        assert json.loads(line) == {"step": 1, "loss": 2.0, "pairs_per_second": None}


class TestResume:
    def test_later_lines_are_cut_off(self, tmp_path: Path) -> None:
        log_steps(tmp_path, 10, 20, 30, 40)
        log_steps(tmp_path, 30, 50, resume_step=25)
        assert logged(tmp_path) == [10, 20, 30, 50]

    def test_line_of_the_resumed_step_stays(self, tmp_path: Path) -> None:
        log_steps(tmp_path, 10, 20, 30)
        log_steps(tmp_path, resume_step=20)
        assert logged(tmp_path) == [10, 20]

    def test_new_run_starts_an_empty_log(self, tmp_path: Path) -> None:
        log_steps(tmp_path, 10)
        log_steps(tmp_path, 5)
        assert logged(tmp_path) == [5]

    @pytest.mark.parametrize("torn", ['{"step": 30, "lo', '{"step": 3', '{"step": 30}', "\0\0\0"])
    def test_torn_last_line_goes(self, tmp_path: Path, torn: str) -> None:
        log_steps(tmp_path, 10, 20)
        file = tmp_path / "metrics.jsonl"
        file.write_text(file.read_text() + torn)
        assert logged(tmp_path) == [10, 20]
        log_steps(tmp_path, 40, resume_step=35)
        assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [10, 20, 40]

    def test_tensorboard_is_told_to_hide_later_steps(self, tmp_path: Path) -> None:
        log_steps(tmp_path, 10, 20, 30)
        log_steps(tmp_path, 30, resume_step=20)
        files = sorted((tmp_path / "tensorboard").iterdir(), key=lambda file: file.suffix)
        assert len(files) == 2
        starts = [
            event.step
            for file in files
            for event in read_events(file)
            if event.session_log.status == SessionLog.START
        ]
        assert starts == [1, 21]


class TestWriting:
    def test_line_is_on_file_when_write_returns(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path)
        log.write(7, {"loss": 0.5, "kept/web": 1.0})
        rows = logging.read(tmp_path / "metrics.jsonl")
        assert rows == [{"step": 7, "loss": 0.5, "kept/web": 1.0}]
        log.close()

    def test_tensorboard_is_on_file_after_sync(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path)
        log.write(7, {"loss": 0.5, "kept/web": 1.0})
        log.sync()
        (file,) = (tmp_path / "tensorboard").iterdir()
        event = read_events(file)[-1]
        assert event.step == 7
        assert {one.tag: one.simple_value for one in event.summary.value} == {
            "loss": 0.5,
            "kept/web": 1.0,
        }
        log.close()

    def test_full_disk_is_explained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        log = MetricsLog(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(UserError, match=r"cannot write the metrics .*No space left"):
                log.sync()
        log.close()

    def test_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot write the metrics"):
            MetricsLog(tmp_path / "file" / "run")


TRAINING_WITH_TORCH_THERE = """
import cots_jax.main
import torch
print(torch.imported)
"""


def test_training_does_not_import_pytorch_and_leaves_it_to_others(tmp_path: Path) -> None:
    """tensorboardX would, and that takes longer than all of the rest."""
    (tmp_path / "torch.py").write_text(
        "import traceback\nimported = traceback.extract_stack()[0].lineno"
    )
    said = run_apart(tmp_path, [sys.executable, "-c", TRAINING_WITH_TORCH_THERE])
    assert said.status == 0, said.err
    assert said.out == "3\n"  # by the line above that asks for it, and by none before
