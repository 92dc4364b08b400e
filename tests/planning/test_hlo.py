# SPDX-License-Identifier: Apache-2.0
"""Compiled programs as text: what is in them, and how often it runs."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cots_jax.planning.hlo import Buffer, buffers, read_program
from cots_jax.planning.traffic import traffic_of

# As libtpu writes it: layouts with tiles and memory spaces, no count of the loop's rounds.
TPU = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%sum (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  %b.1 = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%a.1, %b.1)
}

%body (p: (s32[], bf16[12,8], /*index=2*/f32[256])) -> (s32[], bf16[12,8], f32[256]) {
  %p = (s32[]{:T(128)}, bf16[12,8]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/f32[256]{0}) parameter(0)
  %x = f32[256]{0:T(256)} get-tuple-element(%p), index=2
  %all-reduce.6 = f32[256]{0:T(256)} all-reduce(%x), channel_id=6, to_apply=%sum
  ROOT %next = (s32[]{:T(128)}, bf16[12,8]{1,0}, f32[256]{0}) tuple(%p, %p, %all-reduce.6)
}

%condition (q: (s32[], bf16[12,8], f32[256])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %q = (s32[]{:T(128)}, bf16[12,8]{1,0}, f32[256]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (arg: f32[256]) -> f32[256] {
  %arg = f32[256]{0:T(256)} parameter(0)
  %start = (s32[]{:T(128)}, bf16[12,8]{1,0}, f32[256]{0}) tuple(%arg)
  %while.3 = (s32[]{:T(128)}, bf16[12,8]{1,0}, f32[256]{0}) while(%start), condition=%condition, \
body=%body
  ROOT %out = f32[256]{0:T(256)} get-tuple-element(%while.3), index=2
}
"""


def test_a_program_of_libtpu() -> None:
    program = read_program(TPU)
    assert program.entry == "main"
    assert list(program.computations) == ["sum", "body", "condition", "main"]
    found = program.computations["body"]["all-reduce.6"]
    assert (found.opcode, found.operands, found.bytes) == ("all-reduce", ("x",), 1024)
    assert program.computations["main"]["while.3"].named("condition") == "condition"
    times = {run.instruction.name: run.times for run in program.runs()}
    assert times["all-reduce.6"] == 12
    assert times["while.3"] == 1
    assert "add.1" not in times  # how a sum adds is no instruction of its own


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("f32[3,4]{1,0}", (Buffer(48, True),)),
        ("pred[]", (Buffer(1, True),)),
        ("bf16[12,8]{1,0:T(8,128)(2,1)S(1)}", (Buffer(192, False),)),
        ("(s4[3]{0}, token[], c64[2])", (Buffer(2, True), Buffer(16, True))),
        ("f8e4m3fn[5]", (Buffer(5, True),)),
    ],
)
def test_sizes_of_types(kind: str, wanted: tuple[Buffer, ...]) -> None:
    assert buffers(kind) == wanted


def looped(rounds: int):
    """x @ w, `rounds` times in a loop over a stack of w."""

    def run(x, stack):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, stack)[0]

    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((64, 256), (rounds, 256, 256))]
    return jax.jit(run).lower(*shapes).compile()


def test_a_loop_runs_as_often_as_it_does() -> None:
    program = read_program(looped(7).as_text())
    times = collections.Counter()
    for run in program.runs():
        if run.instruction.opcode in ("dot", "custom-call"):
            times[run.times] += 1
    assert times[7]
    assert not set(times) - {7}


def test_traffic_of_a_loop_is_that_of_its_rounds() -> None:
    """Each round reads a slice of the stack, not the stack."""
    few, many = (traffic_of(read_program(looped(rounds).as_text())) for rounds in (4, 8))
    a_round = (many - few) / 4
    weights, rows = 4 * 256 * 256, 4 * 64 * 256
    assert weights + 2 * rows <= a_round <= 3 * (weights + 2 * rows)


def test_traffic_without_loops_is_what_xla_counts() -> None:
    def run(x, w):
        return jnp.sum(jnp.tanh(x @ w) @ w.T, axis=0)

    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((512, 256), (256, 384))]
    compiled = jax.jit(run).lower(*shapes).compile()
    wanted = compiled.cost_analysis()["bytes accessed"]
    assert traffic_of(read_program(compiled.as_text())) == pytest.approx(wanted, rel=0.2)
