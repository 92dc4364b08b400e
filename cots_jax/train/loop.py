# SPDX-License-Identifier: Apache-2.0
"""The training loop: reads from top to bottom. One loop for pre-training, fine-tuning and dVAE."""

import contextlib
import dataclasses
import json
import signal
import types
from pathlib import Path
from typing import Any, TextIO

import jax
from jax.experimental import multihost_utils

from cots_jax import checkpoint
from cots_jax.batch import Batch
from cots_jax.data.mixture import go_on, segments_from_json, segments_to_json
from cots_jax.pretrained import CHECKPOINTS
from cots_jax.processes import agree_on, code_of_the_package, entered_together, is_first
from cots_jax.schema import Config
from cots_jax.switches import Switch
from cots_jax.train.assemble import assembled, claimed, same_origin
from cots_jax.train.best import Best
from cots_jax.train.clock import Clock
from cots_jax.train.cots import CotsTask
from cots_jax.train.dropped import DroppedLog, NoDroppedLog
from cots_jax.train.dvae import DvaeTask
from cots_jax.train.logging import MetricsLog, NoLog
from cots_jax.train.mesh import make_mesh, place, place_rows, whole
from cots_jax.train.progress import Meter, Progress, Silence
from cots_jax.train.reporter import Reporter, SkipGuard


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended. `trained` is 0 where everything was there already."""

    step: int
    total: int
    trained: int
    preempted: bool
    metrics: dict[str, float]  # of the last evaluation


def train(config: Config, workdir: Path, stream: TextIO | None = None) -> Outcome:
    """Trains until the config's duration, from the newest good checkpoint of the workdir.

    Raises UserError for everything that the user can mend; progress goes to `stream` (stderr).
    """
    agree_on("the config", json.dumps(config.to_dict()))
    agree_on("the code", code_of_the_package())
    mesh = make_mesh(config.hardware)
    with (
        entered_together(claimed(workdir, config)),
        entered_together(assembled(config, workdir, mesh)) as task,
        _Preemption() as stop,
    ):
        return _run(config, workdir, task, stop, stream)


def _run(
    config: Config,
    workdir: Path,
    task: CotsTask | DvaeTask,
    stop: "_Preemption",
    stream: TextIO | None,
) -> Outcome:
    # ------------------------------------------------------------ when what happens
    times = task.clock
    total = times.total_steps
    every = {
        name: max(1, times.steps(getattr(config, f"{name}_every"), f"config.{name}_every"))
        for name in ("log", "evaluate", "checkpoint", "diagnose")
    }

    # ------------------------------------------------------------ state: fresh or resumed
    state = task.fresh()
    found, weights = checkpoint.latest(workdir / CHECKPOINTS), task.table.weights
    start, position, before, weighed = 0, None, None, ()
    if found is None:
        state = task.initialised(state)
    else:
        same_origin(checkpoint.read_fact(found.path, "facts"), task.facts(), workdir)
        start, kept = found.step, checkpoint.read_fact(found.path, "data")
        position, before = kept["iterator"], kept["clock"]
        # checkpoints that are older than segments say nothing of them
        weighed = segments_from_json(kept.get("segments", [])) or go_on((), 0, weights)
        state = task.restored(found.path, state, len(weighed[-1].weights))
    frozen = task.frozen()
    clock = Clock(before)
    meter = Meter(clock, total, start, config.batch)
    progress = Progress(meter, stream if is_first() else Silence())
    for damage in found.damaged if found else ():
        progress.note(f"checkpoint {damage.step} is damaged and passed over: {damage.reason}")
    if start >= total:
        progress.note(f"{workdir} is trained to step {start} of {total}: nothing to do")
        return Outcome(start, total, 0, False, {})
    progress.note(
        f"{config.name}: {'resuming at' if start else 'from'} step {start} of {total}, "
        f"{times.pairs} pairs, batch {config.batch}, {task.mesh.size} x "
        f"{jax.devices()[0].device_kind} ({config.hardware.row}), into {workdir}"
    )

    # ------------------------------------------------------------ data: made after the restore
    segments = go_on(weighed, start * config.batch, weights)
    if weighed and segments != weighed:
        now = ",".join(source.written for source in task.table.sources)
        progress.note(f"from step {start} on, other weights: {now}")
    batches = iter(task.batches(segments))
    if position is not None:
        batches.set_state(position)
    everywhere = whole(task.mesh)

    def save(step: int, extra: dict[str, Any]) -> None:
        with clock.span("checkpoint"):
            log.sync()
            dropped.sync()
            facts = {
                "facts": task.facts() | extra | {"step": step},
                "data": {
                    "iterator": batches.get_state(),
                    "clock": clock.state(),
                    "segments": segments_to_json(segments),
                },
            }
            keep = checkpoint.Keep(config.keep)
            checkpoint.save(workdir / CHECKPOINTS, step, task.trees(state), facts, keep=keep)

    # ------------------------------------------------------------ the loop
    log, step = MetricsLog(workdir, start) if is_first() else NoLog(), start
    dropped = DroppedLog(workdir, start, task.table) if is_first() else NoDroppedLog()
    guard = SkipGuard(start, total, int(jax.device_get(state.skipped)))
    reporter = Reporter(task.logged, log, progress, clock, guard)
    best = Best(workdir) if config.keep_best is Switch.ON else None
    try:
        while step < total and not stop.asked(step):
            with clock.span("data"):
                batch: Batch = place_rows(next(batches), task.mesh, config.batch)
                knobs = place(task.knobs(step), everywhere)
            with clock.span("compile" if step == start else "step"):
                with jax.transfer_guard("disallow"):
                    state, measured = task.step(state, frozen, batch, knobs)
                if step == start:
                    jax.block_until_ready(measured)
            step += 1
            due = {name: step % often == 0 or step == total for name, often in every.items()}
            reporter.settle()  # the step before, while this one runs
            if (judged := measured.pop("judged", None)) is not None:
                dropped.ask(step, judged)
            if due["log"]:
                reporter.ask(step, measured)
            if due["diagnose"] or due["evaluate"] or due["checkpoint"]:
                with clock.span("step"):  # what is still running belongs to the steps
                    jax.block_until_ready(state.step)
                reporter.settle()
            if due["diagnose"]:
                with clock.span("evaluation"):
                    log.write(step, task.diagnose(state, batch, knobs))
            if due["evaluate"]:
                with clock.span("evaluation"):
                    recall = task.evaluate(state)
                reporter.evaluated(step, recall)
                if best is not None:
                    with clock.span("checkpoint"):
                        said = best.consider(step, recall, task.trees(state), task.facts())
                    if said:
                        progress.note(said)
            if due["checkpoint"] and step < total:
                save(step, {})
        # ------------------------------------------------------------ the end
        reporter.settle()
        done = step >= total
        save(step, task.finish(state) if done else {})
    finally:
        log.close()
        dropped.close()
        progress.close()
    return Outcome(step, total, step - start, not done, reporter.metrics)


class _Preemption:
    """SIGTERM asks the loop to save and stop; the program then exits with 75.

    Of several processes, one that gets the signal is enough: JAX listens for it in all of them and
    finds a step that none has passed.
    """

    _signalled = False

    def __enter__(self) -> "_Preemption":
        self._before = None
        if jax.process_count() == 1:
            # elsewhere than in the main thread, whoever runs us there handles signals
            with contextlib.suppress(ValueError):
                self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def asked(self, step: int) -> bool:
        """Whether to stop before `step`; to be called before every one, by all processes."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signalled

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        self._signalled = True
