# SPDX-License-Identifier: Apache-2.0
"""The training loop: reads from top to bottom. One loop for pre-training, fine-tuning and dVAE."""

import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any, TextIO

import jax
from jax.experimental import multihost_utils

from cots_jax import checkpoint
from cots_jax.batch import Batch
from cots_jax.compilation_cache import compiled
from cots_jax.data.mixture import segments_to_json
from cots_jax.data.text_lengths import text_lengths
from cots_jax.errors import UserError
from cots_jax.pretrained import CHECKPOINTS
from cots_jax.processes import (
    agree_on,
    code_of_the_package,
    entered_together,
    is_first,
    refuse_together,
)
from cots_jax.schema import Config
from cots_jax.switches import Switch, Task
from cots_jax.train.ahead import CompiledAhead
from cots_jax.train.assemble import assembled, claimed
from cots_jax.train.best import Best
from cots_jax.train.clock import Clock
from cots_jax.train.cots import CotsTask
from cots_jax.train.dropped import DroppedLog, NoDroppedLog
from cots_jax.train.dvae import DvaeTask
from cots_jax.train.large_pages import large_pages_advice
from cots_jax.train.logging import MetricsLog, NoLog
from cots_jax.train.mesh import make_mesh, place, place_rows, whole
from cots_jax.train.mirror import Mirror, NoMirror
from cots_jax.train.pace import Pace
from cots_jax.train.progress import Meter, Progress, Silence
from cots_jax.train.reporter import Reporter, SkipGuard
from cots_jax.train.resume import standing
from cots_jax.train.skipped import NoSkippedSteps, SkippedSteps
from cots_jax.train.starts import Start, first_start, note_start
from cots_jax.train.trace import Steps, Trace
from cots_jax.train.utilisation import Utilisation
from cots_jax.train.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended. `trained` is 0 where everything was there already."""

    step: int
    total: int
    trained: int
    preempted: bool
    metrics: dict[str, float]  # of the last evaluation


def train(
    config: Config, workdir: Path, stream: TextIO | None = None, profiled: Steps | None = None
) -> Outcome:
    """Trains until the config's duration, from the newest good checkpoint of the workdir.

    profiled: steps to record a trace of, in `workdir/profile`.
    Raises UserError for everything that the user can mend; progress goes to `stream` (stderr).
    """
    agree_on("the config", json.dumps(config.to_dict()))
    agree_on("the code", code_of_the_package())
    mesh = make_mesh(config.hardware)

    def say(text: str) -> None:
        print(text, file=stream or sys.stderr, flush=True)

    with (
        entered_together(claimed(workdir, config, say)) as mirror,
        entered_together(assembled(config, workdir, mesh)) as task,
        _Preemption() as stop,
    ):
        return _run(config, workdir, task, mirror, stop, stream, profiled)


def _run(
    config: Config,
    workdir: Path,
    task: CotsTask | DvaeTask,
    mirror: Mirror | NoMirror,
    stop: "_Preemption",
    stream: TextIO | None,
    profiled: Steps | None,
) -> Outcome:
    # ------------------------------------------------------------ when what happens
    times = task.clock
    total = times.total_steps
    every = {
        name: times.every(getattr(config, f"{name}_every"), f"config.{name}_every")
        for name in ("log", "evaluate", "checkpoint", "diagnose")
    }
    keep = checkpoint.Keep(config.keep)
    if config.keep_every:
        often = times.every(config.keep_every, "config.keep_every")
        keep = dataclasses.replace(keep, every=often)

    # ------------------------------------------------------------ state: fresh or resumed
    found = checkpoint.latest(workdir / CHECKPOINTS)
    ahead = CompiledAhead(task.compile, wanted=found is None or found.step < total)
    here = standing(config, task, found, workdir)
    state, start = here.state, here.step
    frozen = task.frozen()
    clock = Clock(here.clock)
    meter = Meter(clock, total, start, config.batch)
    progress = Progress(meter, stream if is_first() else Silence())
    for damage in found.damaged if found else ():
        progress.note(f"checkpoint {damage.step} is damaged and passed over: {damage.reason}")
    if start >= total:
        progress.note(f"{workdir} is trained to step {start} of {total}: nothing to do")
        _copied(mirror, keep)
        return Outcome(start, total, 0, False, {})
    progress.note(
        f"{config.name}: {'resuming at' if start else 'from'} step {start} of {total}, "
        f"{times.pairs} pairs, batch {config.batch}, {task.mesh.size} x "
        f"{jax.devices()[0].device_kind} ({config.hardware.row}), into {workdir}"
    )
    if is_first():
        note_start(workdir, Start.now(start))
        if not start and config.task is Task.COTS:
            progress.note(text_lengths(task.table).words())
        if advice := large_pages_advice():
            progress.note(advice)

    # ------------------------------------------------------------ data: made after the restore
    if here.reweighed:
        now = ",".join(source.written for source in task.table.sources)
        progress.note(f"from step {start} on, other weights: {now}")
    batches = here.batches(task)
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
                    "segments": segments_to_json(here.segments),
                },
            }
            # the count is saved with them: those that raised it are not named after a resume
            skipped.settle(step, int(jax.device_get(state.skipped)))
            saver.save(step, task.trees(state), facts, keep=keep)
            if mirror.behind:  # with the checkpoint before this one
                progress.note(f"{mirror.behind}; the next checkpoint tries again")

    # ------------------------------------------------------------ the loop
    log, step = MetricsLog(workdir, start) if is_first() else NoLog(), start
    dropped = DroppedLog(workdir, start, task.table) if is_first() else NoDroppedLog()
    skipped_before = int(jax.device_get(state.skipped))
    order = task.table.order(config.seed, here.segments)
    skipped = (
        SkippedSteps(workdir, start, skipped_before, task.table, order, config.batch)
        if is_first()
        else NoSkippedSteps()
    )
    guard = SkipGuard(start, total, skipped_before)
    pace = Pace()
    use = Utilisation(config.hardware, config.batch, task.flops)
    reporter = Reporter(
        task.logged, log, progress, clock, guard, skipped, pace, use, first_start(workdir)
    )
    best = Best(workdir) if config.keep_best is Switch.ON else None
    saver = checkpoint.Saver(workdir / CHECKPOINTS, after=functools.partial(mirror.send, keep))
    watchdog = Watchdog(config.stalled_after)
    trace = Trace(workdir / "profile", profiled)
    if profiled is not None and not profiled.within(start, total):
        progress.note(f"nothing is recorded: this start trains steps {start + 1} to {total}")
    running = None  # a number of the step that the devices are at
    try:
        while step < total and not stop.asked(step):
            with watchdog.waiting(f"end of step {step}"):
                trace.at(step, running)
            began = time.monotonic()
            with clock.span("data"):
                with watchdog.waiting(f"batch for step {step + 1}"):
                    read: Batch = next(batches)
                batch = place_rows(read, task.mesh, config.batch)
                knobs = place(task.knobs(step), everywhere)
            if running is not None and not running.is_ready():
                clock.hidden("data", behind="step")  # the devices did not run dry
            own = time.monotonic() - began
            with (
                clock.span("compile" if step == start else "step"),
                # of the step before: one is always queued behind the one that runs
                watchdog.waiting(f"end of step {step + (step == start)}"),
            ):
                if step == start:
                    ahead.wait()
                with jax.transfer_guard("disallow"):
                    state, measured = task.step(state, frozen, batch, knobs)
                jax.block_until_ready(measured if step == start else running)
            running = measured["skipped"]
            if step == start:
                progress.note(compiled(clock.seconds("compile")))
            else:
                pace.add(time.monotonic() - began, own)
            step += 1
            due = {name: step % often == 0 or step == total for name, often in every.items()}
            reporter.settle()  # the step before, while this one runs
            if (judged := measured.pop("judged", None)) is not None:
                dropped.ask(step, judged)
            skipped.seen(step, running)
            if due["log"]:
                reporter.ask(step, measured)
            if due["diagnose"] or due["evaluate"] or due["checkpoint"]:
                # what is still running belongs to the steps
                with clock.span("step"), watchdog.waiting(f"end of step {step}"):
                    jax.block_until_ready(state.step)
                reporter.settle()
            if due["diagnose"]:
                with clock.span("evaluation"), watchdog.waiting(f"diagnosis of step {step}"):
                    reporter.diagnosed(step, task.diagnose(state, batch, knobs))
            if due["evaluate"]:
                with clock.span("evaluation"):
                    recall = task.evaluate(state)
                reporter.evaluated(step, recall)
                if best is not None:
                    with clock.span("checkpoint"):
                        saver.wait()
                        said = best.consider(step, recall, task.trees(state), task.facts())
                    if said:
                        progress.note(said)
            if due["checkpoint"] and step < total:
                save(step, {})
        # ------------------------------------------------------------ the end
        with clock.span("step"), watchdog.waiting(f"end of step {step}"):
            jax.block_until_ready(state.step)
        reporter.settle()
        done = step >= total
        save(step, task.finish(state) if done else {})
        saver.wait()
        if mirror.behind and not done:
            progress.note(mirror.behind)
    finally:
        trace.close()
        watchdog.close()
        saver.close()
        log.close()
        dropped.close()
        progress.close()
    if done:
        _copied(mirror, keep)
    return Outcome(step, total, step - start, not done, reporter.metrics)


def _copied(mirror: Mirror | NoMirror, keep: checkpoint.Keep) -> None:
    """Sends what was written since. Raises UserError in all processes where it does not arrive."""
    mirror.send(keep)
    behind = f"all is in the workdir, but {mirror.behind}: start again by the same command"
    refuse_together(UserError(behind) if mirror.behind else None)


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
