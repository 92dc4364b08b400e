# SPDX-License-Identifier: Apache-2.0
"""The step of a small config, compiled for the CPU and read; what is tried when it does not fit."""

import dataclasses
import functools
import json
from unittest import mock

import jax
import numpy as np
import pytest
import quick
from doors import PROJECT

from cots_jax.arguments import parse_arguments
from cots_jax.chips import CHIPS
from cots_jax.errors import UserError
from cots_jax.models.dalle import DalleConfig
from cots_jax.models.dvae import DvaeConfig
from cots_jax.planning.cost import Budget, cost_of
from cots_jax.planning.memory import argument_bytes
from cots_jax.planning.planner import OPTIONS, Plan, check_config, plan_step, planned_for, work_of
from cots_jax.planning.report import as_json, in_words, sweep_as_json, sweep_in_words
from cots_jax.planning.sweep import best_of, sweep
from cots_jax.planning.targets import target_of
from cots_jax.planning.tokenizers import tokenizer_shapes
from cots_jax.schema import Config
from cots_jax.switches import Remat

BUDGET = Budget(1e6, 2.0)


def config_of(*flags: str, variant: str = "contrastive,") -> Config:
    # The CPU's rows unroll the layers, which takes its compiler longer.
    spec = f"--config={PROJECT / 'configs' / 'tiny.py'}:{variant}cpu-1"
    return parse_arguments([spec, "--config.hardware.scan=on", *flags], "").config


@functools.cache
def plan_of(*flags: str) -> Plan:
    config = config_of(*flags)
    with mock.patch.dict(OPTIONS, cpu=dict(quick.options())):
        return plan_step(config, target_of(config.hardware))


def test_the_parts_of_memory_are_the_pytrees_and_the_compilers() -> None:
    plan = plan_of()
    assert plan.compiled is not None
    memory = plan.compiled.memory
    assert memory.arguments == plan.arguments
    assert plan.arguments["parameters"] == 4 * plan.parameters
    assert plan.arguments["optimizer"] > 2 * plan.arguments["parameters"]
    assert plan.arguments["queue"] == 24 * (2 * 16 * 4 + 4 + 1) + 4
    assert plan.arguments["image tokenizer"] == 0
    assert memory.total == plan.wanted == sum(memory.parts().values())
    # What is not used the compiler leaves out; there is little of it.
    assert abs(memory.layout) < 0.1 * sum(plan.arguments.values())
    assert memory.results < 2**16  # the state takes its own place
    assert plan.fits


def test_a_step_of_one_device_sends_nothing() -> None:
    plan = plan_of()
    assert plan.compiled is not None
    assert plan.compiled.collectives == []
    assert plan.times is None  # no peak of a CPU is known
    assert cost_of(plan, BUDGET) is None


def test_recomputed_activations_are_told_apart() -> None:
    config = config_of()
    plain, again = (
        work_of(one, target_of(one.hardware))
        for one in (config, config_of("--config.hardware.remat=on"))
    )
    assert plain.flops == plain.model_flops == again.model_flops
    assert 1.1 * again.model_flops < again.flops < 1.5 * again.model_flops


def as_chip(plan: Plan, kind: str = "v5e") -> Plan:
    """The same program, as if it had been compiled for a chip."""
    chip = CHIPS[kind]
    target = dataclasses.replace(plan.target, chip=chip, memory=chip.memory, hosts=1)
    return dataclasses.replace(plan, target=target)


def test_cost_is_time_times_chips() -> None:
    plan = as_chip(plan_of())
    cost, times = cost_of(plan, BUDGET), plan.times
    assert cost is not None
    assert times is not None
    assert cost.pairs_per_second == pytest.approx(16 / times.step)
    assert cost.chip_hours == cost.hours == pytest.approx(1e6 / 16 * times.step / 3600)
    assert cost.money == pytest.approx(2 * cost.chip_hours)
    picture, text = 16 * 16 * 3, 8 * 4
    assert plan.batch_bytes >= 16 * (picture + text)
    assert cost.host_bytes_per_second == pytest.approx(plan.batch_bytes / times.step)


def test_words_and_json_say_the_same() -> None:
    plan = as_chip(plan_of())
    words, found = in_words(plan, BUDGET), as_json(plan, BUDGET)
    assert json.loads(json.dumps(found)) == found
    assert f"bound by {found['bound_by']}" in words
    assert "fits: " in words
    assert "at your price" in words
    assert "pairs/s; each host" in words and "pictures/s" not in words  # a pair may have frames
    for line in found["assumptions"]:
        assert line in words
    assert sum(found["memory"]["parts"].values()) == found["memory"]["wanted"]


def test_what_does_not_fit_says_by_how_much() -> None:
    plan = plan_of()
    small = dataclasses.replace(plan.target, memory=plan.wanted - 2048)
    plan = dataclasses.replace(plan, target=small)
    assert not plan.fits
    assert "DOES NOT FIT" in in_words(plan, BUDGET)
    assert "2.00 KiB too much" in in_words(plan, BUDGET)


def test_a_plan_that_fits_but_for_its_diagnosis_says_so() -> None:
    plan = as_chip(plan_of())
    state = sum(plan.arguments[n] for n in ("parameters", "momentum towers", "optimizer", "queue"))
    assert plan.wanted_diagnosing == plan.wanted + state
    assert "diagnosed" not in in_words(plan, BUDGET)
    target = dataclasses.replace(plan.target, memory=plan.wanted + state // 2)
    words = in_words(dataclasses.replace(plan, target=target), BUDGET)
    assert "\nfits: " in words
    assert "but DOES NOT FIT while it is diagnosed" in words
    assert as_json(plan, BUDGET)["memory"]["wanted_diagnosing"] == plan.wanted_diagnosing


def test_a_program_that_a_compiler_refuses_is_a_plan_too() -> None:
    plan = dataclasses.replace(as_chip(plan_of()), compiled=None, wanted=2**40)
    assert not plan.fits
    words, found = in_words(plan, BUDGET), as_json(plan, BUDGET)
    assert "DOES NOT FIT: 1.00 TiB of 15.75 GiB" in words
    assert found["memory"]["parts"] == plan.arguments
    assert found["seconds"] is found["cost"] is None


def test_arguments_are_cut_as_the_mesh_cuts_them() -> None:
    config = config_of("--config.method.queue_length=4096")
    target = target_of(config.hardware)
    plan = argument_bytes(planned_for(config, target))
    devices = np.full((4, 2, 1), jax.devices()[0])
    mesh = jax.sharding.Mesh(devices, ("data", "fsdp", "tensor"), axis_types=target.mesh.axis_types)
    cut = argument_bytes(planned_for(config, dataclasses.replace(target, mesh=mesh)))
    assert cut["batch"] * 8 == plan["batch"]
    assert (cut["queue"] - 4) * 8 == plan["queue"] - 4
    assert plan["parameters"] / 2 < cut["parameters"] < 0.7 * plan["parameters"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tensor": 4, "chips": 4}, "2 heads of the image tower do not divide over tensor=4"),
        ({"chips": 3}, r"batch 16 does not divide over data=3 .*: use 12 or 24|use 15"),
        ({"chips": 4, "fsdp": 3}, "4 chips do not divide over fsdp=3"),
    ],
)
def test_what_does_not_divide_is_said_with_the_arithmetic(change, said: str) -> None:
    config = config_of()
    hardware = dataclasses.replace(config.hardware, **change)
    with pytest.raises(UserError, match=said):
        check_config(dataclasses.replace(config, hardware=hardware))


def test_an_image_tokenizer_is_not_planned() -> None:
    config = config_of(variant="dvae,")
    with pytest.raises(UserError, match="plan is for the towers' step"):
        check_config(config)


def test_a_published_tokenizer_is_planned_beside_the_config_of_another() -> None:
    config = dataclasses.replace(
        config_of(), image_tokenizer_config=f"{PROJECT}/configs/tiny.py:dvae"
    )
    for name, kind in (("facebook/flava-image-codebook", DalleConfig), ("runs/none", DvaeConfig)):
        found = tokenizer_shapes(dataclasses.replace(config, image_tokenizer=name))
        assert found is not None
        assert isinstance(found.config, kind)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("dvae.py:emoji,cpu-1",), "an image tokenizer is small enough to be tried"),
        (("demo.py:kl,cpu-8", "--config.hardware.tensor=8"), "4 heads of the image tower"),
        (("demo.py:kl,cpu-8",), "none of the batches 20 divides over 8 chips"),
    ],
)
def test_why_there_is_nothing_to_sweep(flags: tuple[str, ...], reason: str) -> None:
    config = parse_arguments([f"--config={PROJECT / 'configs' / flags[0]}", *flags[1:]], "").config
    with pytest.raises(UserError, match=reason):
        sweep(config, (20,), pytest.fail, pytest.fail, lambda line: None)


@pytest.mark.slow
def test_a_sweep_doubles_pieces_then_recomputes_and_recommends_what_fits() -> None:
    config = config_of("--config.model=emoji-32", "--config.batch=64", variant="contrastive,")
    plan = plan_step(config, target_of(config.hardware))
    assert plan.compiled is not None
    room = plan.wanted - plan.compiled.memory.temporaries // 3

    def target(wanted: Config):
        found = target_of(wanted.hardware)
        return dataclasses.replace(as_chip(dataclasses.replace(plan, target=found)).target,
                                   memory=room)  # fmt: skip

    said, left_out = [], []
    tried = sweep(config, (64, 63), target, said.append, left_out.append)
    assert said == tried
    [line] = left_out
    assert "left out: batch 63 does not divide over" in line
    first, *others = tried
    assert not first.plan.fits
    assert first.choice.remat is Remat.OFF
    best = best_of(tried, 64)
    assert best is not None
    assert best.plan.wanted <= room
    assert best.pairs_per_second == max(one.pairs_per_second for one in tried)
    assert any(one.choice.accumulate > 1 for one in others)
    assert any(one.choice.remat is Remat.DOTS for one in others)
    assert best.choice.flags() in sweep_in_words(tried)
    assert sweep_as_json(tried, BUDGET)["recommended"]["64"] == best.choice.flags()
