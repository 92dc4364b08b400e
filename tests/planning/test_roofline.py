# SPDX-License-Identifier: Apache-2.0
"""Times and money of a step, by hand."""

import dataclasses

import pytest

from cots_jax.chips import CHIPS
from cots_jax.errors import UserError, WrongUseError
from cots_jax.planning.collectives import Collective
from cots_jax.planning.flags import parse_flags
from cots_jax.planning.memory import wanted_by
from cots_jax.planning.roofline import assumptions, times_of

V5E, H100 = CHIPS["v5e"], CHIPS["h100"]


def sum_over(group: int, payload: int, times: int = 1) -> Collective:
    return Collective("all-reduce", payload, group, times, "")


def test_each_time_by_hand() -> None:
    found = times_of(V5E, 4, flops=10**15, traffic=10**11, sent=[sum_over(4, 10**9, times=2)])
    assert found.products == pytest.approx(1e15 / 4 / (0.55 * 197e12))
    assert found.memory == pytest.approx(1e11 / 819e9)
    assert found.collectives == pytest.approx(2 * 2 * 0.75 * 1e9 / 90e9)
    assert found.step == max(dataclasses.astuple(found))
    assert found.bound == "products"


def test_beyond_a_host_cards_have_their_network() -> None:
    inner, outer = (times_of(H100, 64, 1, 1, [sum_over(n, 10**9)]).collectives for n in (8, 64))
    assert inner == pytest.approx(2 * 7 / 8 * 1e9 / 450e9)
    assert outer == pytest.approx(2 * 63 / 64 * 1e9 / 50e9)


def test_what_is_assumed_is_said() -> None:
    said = "\n".join(assumptions(H100))
    for number in ("40%", "989", "3,352", "450", "50 beyond"):
        assert number in said


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.50G of 15.75G hbm.",
         24.5 * 2**30),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
         "temporaries (161.00G) exceeds available HBM (15.75G).", 164 * 2**30),
        ("INVALID_ARGUMENT: Used 24.50G of nothing", 0),
    ],
)  # fmt: skip
def test_how_much_a_refused_program_wants(message: str, wanted: float) -> None:
    assert wanted_by(message, held=3 * 2**30) == wanted


class TestFlags:
    TINY = "--config=configs/tiny.py:contrastive,cpu-1"

    def test_all_of_them(self) -> None:
        flags = parse_flags([self.TINY, "--pairs=2e6", "--price_per_chip_hour=1.5", "--json"])
        assert (flags.budget.pairs, flags.budget.price, flags.as_json) == (2e6, 1.5, True)
        assert flags.batches == ()

    def test_a_sweep_goes_around_the_batch_or_through_those_named(self) -> None:
        assert parse_flags([self.TINY, "--sweep"]).batches == (8, 16, 32)
        assert parse_flags([self.TINY, "--sweep=4,64"]).batches == (4, 64)

    @pytest.mark.parametrize(
        ("flag", "said"),
        [
            ("--pairs=many", "--pairs=many: write a number above 0"),
            ("--price_per_chip_hour=0", "above 0"),
            ("--attainable=1.2", "at most 1"),
            ("--sweep=1,x", "write batches"),
            ("--pears=3", "--pairs"),
        ],
    )
    def test_wrong_ones(self, flag: str, said: str) -> None:
        with pytest.raises(WrongUseError, match=said):
            parse_flags([self.TINY, flag])

    def test_a_slice_that_there_is_not_is_said_before_the_batch(self) -> None:
        with pytest.raises(UserError, match="name v5e-4 or v5e-8"):
            parse_flags(["--config=configs/pretrain.py:v5e-7"])
