# SPDX-License-Identifier: Apache-2.0
"""What the loop waits for and writes, in which order: a short run under spies."""

import contextlib
from collections.abc import Iterator

import pytest
from doors import run_main
from tiny_world import CONFIG, Tiny

from cots_jax import checkpoint
from cots_jax.train.skipped import SkippedSteps
from cots_jax.train.watchdog import Watchdog

SHORT = (
    f"--config={CONFIG}:contrastive",
    *("--config.duration=5 steps", "--config.checkpoint_every=2 steps"),
    *("--config.log_every=3 steps", "--config.diagnose_every=5 steps"),
)


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """What was waited for, skipped steps that were settled and checkpoints begun; what was said."""
    happened: list[str] = []
    settle, save = SkippedSteps.settle, checkpoint.Saver.save

    @contextlib.contextmanager
    def waiting(watchdog: Watchdog, what: str) -> Iterator[None]:
        happened.append(what)
        yield

    def settled(steps: SkippedSteps, upto: int, skipped: int) -> None:
        happened.append(f"settled {upto}")
        settle(steps, upto, skipped)

    def saved(saver: checkpoint.Saver, step: int, *rest: object, **options: object) -> None:
        happened.append(f"saved {step}")
        save(saver, step, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watchdog, "waiting", waiting)
        patch.setattr(SkippedSteps, "settle", settled)
        patch.setattr(checkpoint.Saver, "save", saved)
        folder = tmp_path_factory.mktemp("short")
        said = run_main(tiny.root, *SHORT, f"--workdir={folder / 'run'}", "--profile=8-9")
    assert said.status == 0, said.err
    return happened, said.err


def test_each_wait_for_the_devices_is_watched(run: tuple[list[str], str]) -> None:
    happened, _ = run
    for step in range(1, 6):
        batch, end = f"batch for step {step}", f"end of step {step}"
        assert end in happened[happened.index(batch) :]
    for step in (2, 4, 5):
        before, after = happened.index(f"batch for step {step}"), happened.index(f"saved {step}")
        assert f"end of step {step}" in happened[before:after]
    first = happened.index("batch for step 1")
    assert "end of step 1" in happened[first : happened.index("batch for step 2")]
    assert "diagnosis of step 5" in happened[happened.index("batch for step 5") :]


def test_a_checkpoint_comes_after_the_names_of_what_was_skipped(
    run: tuple[list[str], str],
) -> None:
    happened, _ = run
    saves = [what for what in happened if what.startswith("saved")]
    assert saves == ["saved 2", "saved 4", "saved 5"]
    for what in saves:
        step = what.split()[1]
        assert f"settled {step}" in happened[: happened.index(what)]


def test_a_trace_of_steps_that_do_not_come_is_said_to_be_none(run: tuple[list[str], str]) -> None:
    assert "nothing is recorded: this start trains steps 1 to 5" in run[1]
