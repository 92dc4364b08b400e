# SPDX-License-Identifier: Apache-2.0
"""A run that is stopped, killed or damaged half-way ends with the same bits as one that is not."""

import fcntl
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from doors import command, load_benchmark, run_apart, run_main
from tiny_world import CONFIG, Tiny

from cots_jax import checkpoint, manifest
from cots_jax.pretrained import CHECKPOINTS

harness = load_benchmark("kill_harness")
TRAIN = f"--config={CONFIG}"
LAST = 40


class StopAt(io.StringIO):
    """A standard error that sends this process SIGTERM when the given words are written to it."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def write(self, text: str) -> int:
        if text.startswith(self._words):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(text)


def assert_as_undisturbed(tiny: Tiny, disturbed: Tiny) -> None:
    wanted = harness.fingerprint(tiny.run)
    assert wanted["step"] == str(LAST)
    parts = ("towers/momentum", "method/queue", "method/filter", "training/opt_state")
    for part in (*parts, "metrics", "dropped"):
        assert any(name.startswith(part) for name in wanted), part
    assert harness.differences(wanted, harness.fingerprint(disturbed.run)) == []


def newest(run: pathlib.Path) -> checkpoint.Found:
    found = checkpoint.latest(run / "checkpoints")
    assert found is not None
    return found


def test_a_fingerprint_sees_a_single_bit_and_a_single_line(
    tiny: Tiny, tmp_path: pathlib.Path
) -> None:
    copy = tiny.copy(tmp_path, "tiny")
    log = copy.run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]) + lines[-1].replace('"step": 40', '"step": 41'))
    differing = harness.differences(harness.fingerprint(tiny.run), harness.fingerprint(copy.run))
    assert differing == [f"metrics.jsonl:{len(lines)}"]
    assert harness.differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]


def test_a_step_can_be_repeated_and_a_changed_number_is_named(
    tiny: Tiny, tmp_path: pathlib.Path
) -> None:
    copy = tiny.copy(tmp_path, "tiny")
    again = (TRAIN, f"--workdir={copy.run}", f"--replay={LAST}")
    said = run_main(tiny.root, *again)
    assert said.status == 0, said.out + said.err
    assert "repeated from the checkpoint of step 35: all" in said.out
    log = copy.run / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        row["gradient_norm"] = row.get("gradient_norm", 1.0) * (1 + 1e-7)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = harness.fingerprint(copy.run)
    said = run_main(tiny.root, *again)
    assert said.status == 1
    assert "1 of" in said.out and "gradient_norm: logged" in said.out
    assert harness.fingerprint(copy.run) == before  # nothing was written
    said = run_main(tiny.root, *again[:2], "--replay=38")
    assert said.status == 1 and "has no step 38 to compare with; nearest: 40" in said.line


def test_a_second_run_at_the_same_time_is_refused(tiny: Tiny) -> None:
    before = harness.fingerprint(tiny.run)
    with (tiny.run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = run_main(tiny.root, TRAIN)
    assert said.status == 1
    assert "another run works in runs/tiny: wait for it" in said.line
    assert harness.fingerprint(tiny.run) == before


@pytest.mark.slow
def test_stopped_by_sigterm(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    stopped = run_main(copy.root, TRAIN, stream=StopAt("step 15/40"))
    assert stopped.status == 75, stopped.err
    assert LAST > newest(copy.run).step >= 15
    again = run_main(copy.root, TRAIN)
    assert again.status == 0, again.err
    assert "resuming at step" in again.err
    assert_as_undisturbed(tiny, copy)


@pytest.mark.slow
def test_stopped_again_and_again(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    for step in range(10, LAST, 10):
        stopped = run_main(copy.root, TRAIN, stream=StopAt(f"step {step}/40"))
        assert stopped.status == 75, stopped.err
    assert run_main(copy.root, TRAIN).status == 0
    assert_as_undisturbed(tiny, copy)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_passed_over(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    assert run_main(copy.root, TRAIN, stream=StopAt("step 15/40")).status == 75
    damaged = newest(copy.run)
    file = max(damaged.path.glob("towers/d/*"), key=lambda path: path.stat().st_size)
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 1
    file.write_bytes(held)
    before = newest(copy.run)
    assert before.step < damaged.step
    again = run_main(copy.root, TRAIN)
    assert again.status == 0, again.err
    assert f"checkpoint {damaged.step} is damaged and passed over: towers/d/" in again.err
    assert f"resuming at step {before.step} of 40" in again.err
    assert_as_undisturbed(tiny, copy)


@pytest.mark.slow
def test_a_disk_that_is_lost(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    mirrored = (TRAIN, f"--config.mirror={tmp_path / 'elsewhere' / 'tiny'}")
    stopped = run_main(copy.root, *mirrored, stream=StopAt("step 15/40"))
    assert stopped.status == 75, stopped.err
    step = newest(copy.run).step
    shutil.rmtree(copy.run)
    again = run_main(copy.root, *mirrored)
    assert again.status == 0, again.err
    assert f"step {step} came back from {tmp_path / 'elsewhere' / 'tiny'}" in again.err
    assert f"resuming at step {step} of 40" in again.err
    assert_as_undisturbed(tiny, copy)
    shutil.rmtree(copy.run)
    done = run_main(copy.root, *mirrored)
    assert done.status == 0 and "nothing to do" in done.err
    assert_as_undisturbed(tiny, copy)


@pytest.mark.slow
def test_a_copy_that_cannot_be_made(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    (tmp_path / "file").touch()
    mirrored = (TRAIN, f"--config.mirror={tmp_path / 'file' / 'below'}")
    stopped = run_main(copy.root, *mirrored, stream=StopAt("step 15/40"))
    assert stopped.status == 75, stopped.err  # it goes on where it is started again
    assert f"the copy at {tmp_path / 'file' / 'below'} is behind" in stopped.err
    done = run_main(copy.root, *mirrored)
    assert done.status == 1
    assert "error: all is in the workdir, but the copy at" in done.err
    assert_as_undisturbed(tiny, copy)
    (tmp_path / "file").unlink()
    again = run_main(copy.root, *mirrored)
    assert again.status == 0, again.err
    assert (tmp_path / "file" / "below" / "checkpoints" / "40" / manifest.NAME).is_file()


@pytest.mark.slow
def test_killed_in_a_process_of_its_own(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    environment = {**os.environ, "PYTHONPATH": str(CONFIG.parents[1])}
    with subprocess.Popen(
        command("main", TRAIN), cwd=copy.root, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 600
        # Saves go on beside the run: a step in the log says nothing of a checkpoint on the disk,
        # and neither does a manifest in STEP.saving, which has not got its name yet.
        written = f"*/{manifest.NAME}"
        while not any(p.parent.name.isdigit() for p in (copy.run / CHECKPOINTS).glob(written)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    again = run_apart(copy.root, command("main", TRAIN))
    assert again.status == 0, again.err
    assert "resuming at step" in again.err
    assert_as_undisturbed(tiny, copy)


@pytest.mark.slow
def test_two_runs_at_the_same_time(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    environment = {**os.environ, "PYTHONPATH": str(CONFIG.parents[1])}
    pair = [
        subprocess.Popen(
            command("main", TRAIN),
            cwd=copy.root,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=600)[1] for process in pair]
    told = sorted(zip((process.returncode for process in pair), errors, strict=True))
    assert told[0][0] == 0, told[0][1]
    # The one that came second was refused, or came when all was done.
    assert "another run works in" in told[1][1] or "nothing to do" in "".join(errors)
    assert_as_undisturbed(tiny, copy)
