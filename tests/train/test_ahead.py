# SPDX-License-Identifier: Apache-2.0
"""The step's program is made in a thread, once, for a fresh run and for one that goes on."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import pytest
from doors import PROJECT

from benchmarks.counts.watch import COMPILED
from benchmarks.made_up import write_codes, write_pairs, write_tokenizer
from cots_jax.arguments import parse_arguments
from cots_jax.train.ahead import CompiledAhead
from cots_jax.train.assemble import assembled
from cots_jax.train.cots import CotsTask
from cots_jax.train.loop import train
from cots_jax.train.mesh import make_mesh, place, place_rows, whole
from cots_jax.train.planning import arguments_of
from cots_jax.train.trace import Trace


def test_it_is_called_in_another_thread_and_awaited() -> None:
    go, threads = threading.Event(), []

    def compile_slowly() -> None:
        go.wait(60)
        threads.append(threading.current_thread())

    ahead = CompiledAhead(compile_slowly, wanted=True)
    assert not threads
    go.set()
    ahead.wait()
    [found] = threads
    assert found is not threading.current_thread()
    assert not found.is_alive()
    ahead.wait()  # once more, at no cost


def test_where_it_is_not_wanted_nothing_is_compiled() -> None:
    called = []
    CompiledAhead(lambda: called.append(1), wanted=False).wait()
    assert not called


def test_several_processes_compile_when_all_of_them_come_to_it(monkeypatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    called = []
    CompiledAhead(lambda: called.append(1), wanted=True).wait()
    assert not called


def test_an_error_is_left_to_the_step_that_meets_it_again() -> None:
    def fails() -> None:
        raise ValueError("no such operation")

    CompiledAhead(fails, wanted=True).wait()


ALONE = {f"method.weight_{level}": "0" for level in ("mvm", "mlm", "task")}
ALONE |= {f"method.filter.{key}": "off" for key in ("state", "list_dropped")}
ALONE["method.queue_length"] = "0"
CASES = {  # names of the config, whether it makes its codes itself, keys
    "all levels": ("", True, {}),
    "codes ahead": ("", False, {"method.masked.tokenizer_input": "clean"}),
    "contrastive": ("contrastive", False, {}),
    "in-batch InfoNCE": ("contrastive", False, {**ALONE, "method.contrast": "batch"}),
    "sigmoid": ("contrastive", False, {**ALONE, "method.contrast": "sigmoid"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_shapes_are_those_of_what_the_loop_calls_the_step_with(
    case: str, tmp_path: Path
) -> None:
    """Others would be compiled in vain, and the step a second time."""
    write_pairs(tmp_path / "data", 48, 16, held_out=12)
    write_tokenizer(tmp_path / "dvae", "dvae-16-8")
    names, online, own = CASES[case]
    if not online:
        write_codes(tmp_path / "data", "tiny-16", 16)
    flags = {
        "data.train": f"{tmp_path}/data#train",
        "data.eval": f"{tmp_path}/data#val",
        "image_tokenizer": f"{tmp_path}/dvae" if online else "",
        "augmentation.shift": "0.0",
        **own,
    }
    keys = [f"--config.{name}={value}" for name, value in flags.items()]
    spec = f"--config={PROJECT / 'configs/tiny.py'}:{names}"
    config = parse_arguments([spec, *keys], "").config
    mesh = make_mesh(config.hardware)
    with assembled(config, tmp_path / "run", mesh) as task:
        assert isinstance(task, CotsTask)
        frozen = task.image_tokenizer.params if task.image_tokenizer else None
        planned = arguments_of(task._step, config, frozen, 1)
        batch = place_rows(next(iter(task.batches())), mesh, config.batch)
        knobs = place(task.knobs(0), whole(mesh))
        real = task.fresh(), task.frozen(), batch, knobs

    def said(leaf: Any) -> tuple[Any, ...]:
        return leaf.shape, leaf.dtype, leaf.sharding

    assert jax.tree.structure(planned) == jax.tree.structure(real)
    assert jax.tree.leaves(jax.tree.map(said, planned)) == jax.tree.leaves(jax.tree.map(said, real))
    assert ("mvm" in task.schedules.active) == (case in ("all levels", "codes ahead"))


class StoppedError(Exception):
    """What a kill is here."""


@pytest.mark.slow
def test_a_run_and_its_second_start_compile_the_step_once_each(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", 48, 16, held_out=12)
    flags = {
        "data.train": f"{tmp_path}/data#train",
        "data.eval": f"{tmp_path}/data#val",
        "duration": "4 steps",
        "checkpoint_every": "1 steps",
        "evaluate_every": "200%",
        "diagnose_every": "200%",
        "image_tokenizer": "",
        "method.weight_mvm": "0",
    }
    keys = [f"--config.{name}={value}" for name, value in flags.items()]
    config = parse_arguments([f"--config={PROJECT / 'configs/tiny.py'}:cpu-1", *keys], "").config
    programs: Counter[str] = Counter()
    by_thread: Counter[bool] = Counter()

    def compiled(event: str, duration_secs: float, **named: str | int) -> None:
        name = str(named.get("fun_name", ""))
        if event == COMPILED and "cots_step" in name:
            programs[name] += 1
            by_thread[threading.current_thread() is threading.main_thread()] += 1

    jax.monitoring.register_event_duration_secs_listener(compiled)
    try:
        at = Trace.at

        def stop(trace: Trace, step: int, running: Any = None) -> None:
            if step == 2:
                raise StoppedError
            at(trace, step)

        with mock.patch.object(Trace, "at", stop), pytest.raises(StoppedError):
            train(config, tmp_path / "run")
        assert programs.total() == 1
        outcome = train(config, tmp_path / "run")
        assert outcome.trained == 2
        assert programs.total() == 2
        assert by_thread == {False: 2}
        assert train(config, tmp_path / "run").trained == 0
        assert programs.total() == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(compiled)
