# SPDX-License-Identifier: Apache-2.0
"""Model FLOPs utilisation: what counts as work, and over which peak."""

import pathlib

import pytest
from doors import PROJECT, run_main
from tiny_world import CONFIG, Tiny

from cots_jax.arguments import parse_arguments
from cots_jax.chips import CHIPS
from cots_jax.schema import Config, HardwareConfig
from cots_jax.train import logging
from cots_jax.train.flops import count_flops
from cots_jax.train.mesh import make_mesh
from cots_jax.train.planning import PlannedStep, planned_step
from cots_jax.train.utilisation import Utilisation, chip_of, step_flops

FULL = frozenset({"instance", "mvm", "mlm", "task"})


def config_of(names: str, *flags: str) -> Config:
    spec = f"--config={PROJECT / 'configs' / 'pretrain.py'}:{names}"
    return parse_arguments([spec, "--config.model=b16-224", "--config.batch=2", *flags], "").config


def planned(config: Config) -> PlannedStep:
    return planned_step(config, make_mesh(config.hardware))


def counted(config: Config) -> int:
    step = planned(config)
    return count_flops(step.step, *step.arguments)


def test_it_is_work_over_what_the_chips_could_do() -> None:
    use = Utilisation(HardwareConfig(row="v5e-4", chips=4), 10, lambda step: 10**12 * step)
    assert use.numbers(3, 100.0) == {"mfu": pytest.approx(3e13 / (4 * 197e12))}


def test_nothing_is_said_of_a_chip_without_a_known_peak() -> None:
    assert Utilisation(HardwareConfig(row="cpu-1"), 1, lambda step: 1).numbers(1, 1.0) == {}
    assert Utilisation(HardwareConfig(row="v5e-1"), 1, None).numbers(1, 1.0) == {}
    assert chip_of(HardwareConfig(row="h200")) == CHIPS["h200"]


def test_what_is_computed_again_is_no_work() -> None:
    config = config_of("v5e-1", "--config.hardware.remat=on")
    plain = ("--config.hardware.remat=off", "--config.hardware.attention=written_out")
    without = counted(config_of("v5e-1", *plain))
    assert counted(config) > 1.2 * without
    assert step_flops(planned(config).step, config, FULL) == without


def test_an_objective_that_is_off_is_no_work() -> None:
    config = config_of("v5e-1", "--config.hardware.remat=off")
    alone = counted(config_of("contrastive,v5e-1", "--config.hardware.remat=off"))
    assert step_flops(planned(config).step, config, frozenset({"instance"})) == alone


def test_a_run_logs_it_where_its_row_names_a_chip(
    tiny: Tiny, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is a name here: the CPU is told that it is a chip, with a tokenizer in its step."""
    run, numbers, rates = tmp_path / "run", Utilisation.numbers, {}

    def noted(use: Utilisation, step: int, pairs_per_second: float) -> dict[str, float]:
        rates[step] = pairs_per_second
        return numbers(use, step, pairs_per_second)

    monkeypatch.setattr(Utilisation, "numbers", noted)
    said = run_main(
        tiny.root, f"--config={CONFIG}", f"--workdir={run}", "--config.hardware.row=v5e-1"
    )
    assert said.status == 0, said.err
    rows = [row for row in logging.read(run / "metrics.jsonl") if row.get("mfu")]
    flops = {row["step"]: row["mfu"] / rates[row["step"]] for row in rows}
    assert 0 < max(row["mfu"] for row in rows) < 1
    # At step 10 the masked levels are on, at 40 they are not.
    assert flops[10] > 1.2 * flops[40] > 0
