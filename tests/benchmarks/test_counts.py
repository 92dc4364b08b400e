# SPDX-License-Identifier: Apache-2.0
"""The recorded counts hold, and each guard names what has changed."""

import collections
import copy
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.counts import __main__ as command
from benchmarks.counts import compiled, short_run, steps
from benchmarks.counts.parts import broken, measured
from benchmarks.counts.record import COMMAND, RECORDED, compare, read_counts
from benchmarks.counts.watch import Watch
from cots_jax.errors import UserError
from cots_jax.train.skipped import SkippedSteps
from cots_jax.train.trace import Trace

REMEDY = f"{COMMAND} --update writes it down on purpose"


def held(found: dict[str, Any]) -> None:
    """Asserts that nothing differs; skips what another compiler has made, after all promises."""
    assert not broken(found), "\n".join(broken(found))
    compared = compare(read_counts(), found)
    assert not compared.differences, "\n".join(compared.differences)
    if compared.not_compared:
        pytest.skip("; ".join(compared.not_compared))


@pytest.mark.parametrize(
    "size", [*steps.SIZES[:2], pytest.param(steps.SIZES[2], marks=pytest.mark.slow)]
)
def test_a_step_costs_what_is_recorded(size: str) -> None:
    """By its shapes; FLOPs beside contrastive alone within what is promised."""
    found = steps.count(size)
    assert not steps.broken(found), "\n".join(steps.broken(found))
    recorded = {name: one for name, one in read_counts()["steps"].items() if name.startswith(size)}
    differences = compare({"steps": recorded}, {"steps": found}).differences
    assert not differences, "\n".join(differences)


def test_the_record_names_every_step_once() -> None:
    assert list(read_counts()["steps"]) == list(steps.STEPS)
    assert set(steps.STEPS) == {
        name for name in steps.STEPS for size in steps.SIZES if name.startswith(size)
    }


@pytest.mark.slow
def test_the_compiled_step_holds_and_sends_what_is_recorded() -> None:
    found = measured("compiled")
    column = found["compiled"][compiled.QUEUE]
    # Otherwise the figure would not see logits that are materialised whole.
    assert column[compiled.WHOLE] > 4 * column["rows"] > column[compiled.CHUNKED]
    held(found)


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    return measured("short_run")


@pytest.mark.slow
def test_the_loop_transfers_and_waits_as_recorded(run: dict[str, Any]) -> None:
    held({"short_run": run["short_run"]})


@pytest.mark.slow
def test_a_run_compiles_the_recorded_programs(run: dict[str, Any]) -> None:
    held({"programs": run["programs"]})


# ---------------------------------------------------------------- guards that fail


@pytest.fixture
def recorded() -> dict[str, Any]:
    return copy.deepcopy(read_counts())


def changed(recorded: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the count at `part/step/…` in the place of the recorded one; None: without it."""
    *above, last = path.split("/")
    tree = found = copy.deepcopy(recorded)
    for name in above:
        tree = tree[name]
    tree.pop(last) if value is None else tree.update({last: value})
    return found


PLAIN = f"short_run/tiny/{short_run.PLAIN}"
MUTATIONS = {
    "steps/demo/flops": (12_407_341_056, "demo: flops 12407341056 -> 12407341057 (+0.0 %)"),
    "steps/demo/batch": (64, "demo: batch 64 -> 65 (+1.6 %)"),
    "steps/b16-384/bytes/batch": (
        912_564_224,
        "b16-384: bytes, batch 912564224 -> 912564225 (+0.0 %)",
    ),
    "compiled/tiny over data/collectives/all-reduce/count": (
        23,
        "tiny over data: collectives, all-reduce, count 23 -> 24 (+4.3 %)",
    ),
    f"{PLAIN}/fetches": (0, f"tiny: {short_run.PLAIN}, fetches 0 -> 1"),
    f"{PLAIN}/puts": (2, f"tiny: {short_run.PLAIN}, puts 2 -> 3 (+50.0 %)"),
    "programs/until the end of the first step/jit(make)": (
        1,
        "until the end of the first step: jit(make) 1 -> 2 (+100.0 %)",
    ),
}


@pytest.mark.parametrize("path", MUTATIONS)
def test_a_changed_count_is_named(path: str, recorded: dict[str, Any]) -> None:
    old, said = MUTATIONS[path]
    before = changed(recorded, path, old)
    after = changed(recorded, path, old + 1)
    assert compare(before, after).differences == [f"{said}; {REMEDY}"]
    assert compare(before, before).differences == []


def test_a_count_that_comes_or_goes_is_named(recorded: dict[str, Any]) -> None:
    without = changed(recorded, "steps/demo/bytes/queue", None)
    size = recorded["steps"]["demo"]["bytes"]["queue"]
    assert compare(without, recorded).differences == [
        f"demo: bytes, queue is {size} and not recorded; {REMEDY}"
    ]
    assert compare(recorded, without).differences == [
        f"demo: bytes, queue was {size} and is counted no more; {REMEDY}"
    ]


def test_another_compiler_is_said_and_not_compared(recorded: dict[str, Any]) -> None:
    other = changed(recorded, "compiled/jaxlib", "0.0.1")
    other["compiled"]["tiny over data"]["bytes moved"] = 1
    other["steps"]["demo"]["batch"] = 1
    compared = compare(other, recorded)
    assert [line.partition(";")[0] for line in compared.differences] == [
        "demo: batch 1 -> 64 (+6300.0 %)"
    ]
    [line] = compared.not_compared
    here = recorded["compiled"]["jaxlib"]
    assert line.startswith(f"compiled: recorded with jaxlib 0.0.1, here is {here}")


PROMISES = {
    "steps/b16-384/flops": (2 * 10**15, "b16-384: 2.093 times the flops of contrastive alone"),
    "steps/b16-224 shared forward/flops": (6 * 10**14, "b16-224 shared forward: 1.598 times"),
    f"compiled/{compiled.QUEUE}/{compiled.CHUNKED}": (5000, "[b, k] is materialised whole"),
    f"{PLAIN}/fetches": (1, "fetches should be 0 and is 1"),
    f"{PLAIN}/other waits": (2, "other waits should be 0 and is 2"),
    "short_run/tiny/times that the step was compiled": (2, "compiled should be 1 and is 2"),
    "short_run/tiny/programs of later steps": (1, "programs of later steps should be 0 and is 1"),
    "short_run/tiny/programs of the second evaluation": (3, "second evaluation should be 0"),
}


@pytest.mark.parametrize("path", PROMISES)
def test_a_broken_promise_is_named_and_not_written_down(
    path: str,
    recorded: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    value, said = PROMISES[path]
    assert broken(recorded) == []
    worse = changed(recorded, path, value)
    monkeypatch.setattr(command, "measured", lambda part: {part: worse[part]})
    file = tmp_path / "recorded.json"
    assert command.main(["--update", f"--recorded={file}"]) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert said in line
    assert not file.exists()


# ---------------------------------------------------------------- the command


@pytest.fixture
def counts(recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is what the command finds."""
    monkeypatch.setattr(command, "measured", lambda part: {part: recorded[part]})


@pytest.mark.usefixtures("counts")
def test_the_command_compares_and_writes(
    tmp_path: pathlib.Path, recorded: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recorded.json"
    before = changed(recorded, "steps/demo/flops", 8_000_000_000)
    before["compiled"]["jaxlib"] = "0.0.1"
    file.write_text(json.dumps(before))
    flags = ["--part=steps,compiled", f"--recorded={file}"]
    assert command.main(flags) == 1
    said = capsys.readouterr()
    assert said.out == f"demo: flops 8000000000 -> 9911541760 (+23.9 %); {REMEDY}\n"
    assert "not compared: compiled: recorded with jaxlib 0.0.1" in said.err
    assert command.main(["--update", "--part=steps", f"--recorded={file}"]) == 0
    assert read_counts(file)["steps"] == recorded["steps"]
    assert read_counts(file)["compiled"]["jaxlib"] == "0.0.1"  # which was not counted
    capsys.readouterr()
    assert command.main([f"--recorded={file}", "--part=steps"]) == 0
    assert capsys.readouterr().out == "all counts are as recorded\n"


@pytest.mark.usefixtures("counts")
def test_what_is_written_anew_is_the_recorded_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "recorded.json"
    parts = ",".join(read_counts())
    assert parts == "steps,compiled,short_run,programs"
    command.write_counts(read_counts(), file)
    assert file.read_text() == RECORDED.read_text()


def test_wrong_use_and_no_file_are_said(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        command.main(["--part=step"])
    assert leaving.value.code == 2
    assert "no part 'step'; the nearest parts: steps" in capsys.readouterr().err
    with pytest.raises(UserError, match="--update writes it down"):
        read_counts(tmp_path / "missing.json")


# ---------------------------------------------------------------- what the loop is watched by


@pytest.fixture
def trace(tmp_path: pathlib.Path) -> Trace:
    return Trace(tmp_path, None)


def counted(trace: Trace, *steps: Any, strict: bool = False) -> list[dict[str, int]]:
    """What each of these functions does when it is a step."""
    with Watch(lambda _: strict) as watch:
        for number, step in enumerate(steps):
            trace.at(number)
            step()
    return [one.counts() for one in watch.steps]


def test_each_kind_of_fetch_is_counted_once(trace: Trace) -> None:
    x, tree = jnp.ones(()), {"a": jnp.ones(3), "b": jnp.ones(4)}
    fetches = [
        one["fetches"]
        for one in counted(
            trace,
            lambda: None,
            lambda: float(x),
            lambda: jax.device_get(tree),
            lambda: (int(x), bool(x + 1)),
            lambda: jax.device_put(tree["a"], x.sharding),
        )
    ]
    assert fetches == [0, 1, 1, 2, 0]


def test_puts_are_counted_with_their_bytes(trace: Trace) -> None:
    [one] = counted(trace, lambda: jax.device_put([np.ones(3, np.float32), np.ones(2, np.int8)]))
    assert (one["puts"], one["arrays put"], one["bytes put"]) == (1, 2, 14)


def test_a_transfer_that_nobody_asked_for_is_an_error(trace: Trace) -> None:
    x = jnp.ones(3)
    with pytest.raises(Exception, match="host-to-device"):
        counted(trace, lambda: jnp.asarray([1.0, 2.0, 3.0]) + x, strict=True)
    counted(trace, lambda: jnp.asarray([1.0, 2.0, 3.0]) + x)


def test_a_wait_for_the_newest_step_is_told_from_one_for_the_step_before(trace: Trace) -> None:
    seen = SkippedSteps.__new__(SkippedSteps)
    seen._steps = collections.deque()
    first, second = jnp.zeros((), int), jnp.zeros((), int)

    def late() -> None:
        jax.block_until_ready(first)
        seen.seen(2, second)

    def at_once() -> None:
        seen.seen(3, first)
        first.block_until_ready()

    one, two, three = counted(trace, lambda: seen.seen(1, first), late, at_once)
    before = "waits for the step before"
    assert (one[before], one["other waits"]) == (0, 0)
    assert (two[before], two["other waits"]) == (1, 0)
    assert (three[before], three["other waits"]) == (0, 1)


def test_a_fetch_in_what_marks_the_steps_is_counted(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SkippedSteps, "seen", lambda self, step, skipped: int(skipped))
    seen, skipped = SkippedSteps.__new__(SkippedSteps), jnp.zeros((), int)
    [one] = counted(trace, lambda: seen.seen(1, skipped))
    assert one["fetches"] == 1


def test_programs_are_counted_where_they_are_compiled(trace: Trace) -> None:
    step = jax.jit(lambda x: x * 3 + 1)
    short, long = jnp.ones(3), jnp.ones(4)
    with Watch(lambda _: False) as watch:
        for number, x in enumerate((short, short, long)):
            trace.at(number)
            step(x)
    assert [one.programs.total() for one in watch.steps] == [1, 0, 1]
    step(jnp.ones(5))
    assert watch.steps[-1].programs.total() == 1  # nothing is watched any more
