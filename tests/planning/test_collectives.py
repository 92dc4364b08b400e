# SPDX-License-Identifier: Apache-2.0
"""Collectives of compiled programs: kinds, groups in all notations, bytes."""

import pytest

from cots_jax.planning.collectives import collectives_of
from cots_jax.planning.hlo import read_program


def program(*lines: str, name: str = "ENTRY %main"):
    body = "\n".join(f"  {line}" for line in lines)
    return read_program(
        f"{name} (x: f32[64]) -> f32[64] {{\n  %x = f32[64]{{0}} parameter(0)\n{body}\n}}\n"
    )


def only(*lines: str):
    (found,) = collectives_of(program(*lines), 8)
    return found


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'a'}", 2),
        ("mesh['a'=2,'c'=4] {'a','c'}", 8),
        ("{}", 8),
    ],
)
def test_groups(groups: str, size: int) -> None:
    line = f"%r = f32[64]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%sum"
    found = only(line)
    assert (found.group, found.payload) == (size, 256)
    assert found.wire == round(2 * 256 * (size - 1) / size)


@pytest.mark.parametrize(
    ("line", "kind", "payload", "wire"),
    [
        ("%g = f32[512]{0} all-gather(%x), channel_id=1, replica_groups=[1,8]<=[8]",
         "all-gather", 2048, 1792),
        ("%g = (f32[64]{0}, f32[512]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8]",
         "all-gather", 2048, 1792),
        ("%g = f32[8]{0} reduce-scatter(%x), replica_groups=[1,8]<=[8], to_apply=%sum",
         "reduce-scatter", 256, 224),
        ("%g = f32[64]{0} all-to-all(%x), replica_groups=[1,8]<=[8]", "all-to-all", 256, 224),
        ("%g = f32[64]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}",
         "collective-permute", 256, 256),
    ],
)  # fmt: skip
def test_bytes_into_a_chip_by_a_ring(line: str, kind: str, payload: int, wire: int) -> None:
    found = only(line)
    assert (found.kind, found.payload, found.wire) == (kind, payload, wire)


def test_one_that_overlaps_others_counts_once() -> None:
    """libtpu writes it into each fusion that it passes, under the same channel."""
    gather = "all-gather(%x), channel_id=8, replica_groups=[1,8]<=[8]"
    assert only(f"%a = f32[512]{{0}} {gather}", f"%b = f32[512]{{0}} {gather}").kind == "all-gather"


def test_a_sum_of_which_each_chip_keeps_a_part_is_a_reduce_scatter() -> None:
    text = """\
%all-reduce-scatter.1 (y: f32[64]) -> f32[8] {
  %y = f32[64]{0} parameter(0)
  %s = f32[64]{0} all-reduce(%y), channel_id=5, replica_groups=[1,8]<=[8], to_apply=%sum
  ROOT %d = f32[8]{0} dynamic-slice(%s), dynamic_slice_sizes={8}
}

ENTRY %main (x: f32[64]) -> f32[8] {
  %x = f32[64]{0} parameter(0)
  ROOT %f = f32[8]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    (found,) = collectives_of(read_program(text), 8)
    assert (found.kind, found.wire) == ("reduce-scatter", 224)


def test_alone_nothing_is_sent() -> None:
    line = "%r = f32[64]{0} all-reduce(%x), replica_groups={{0}}, to_apply=%sum"
    assert collectives_of(program(line), 1) == []
