# SPDX-License-Identifier: Apache-2.0
"""The flags of the training door."""

import os
import pathlib

import pytest

from cots_jax.arguments import DETERMINISTIC, load_config, parse_arguments
from cots_jax.errors import UserError, WrongUseError
from cots_jax.switches import Negatives, Switch

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
TINY = f"--config={CONFIGS}/tiny.py:cpu-1"


def parse(*flags):
    return parse_arguments(flags, "how to use it")


def test_the_workdir_is_named_after_the_config():
    found = parse(TINY)
    assert found.workdir == pathlib.Path("runs/tiny")
    assert found.config.name == "tiny"
    assert parse(TINY, "--workdir=/elsewhere").workdir == pathlib.Path("/elsewhere")


def test_overrides_keep_the_type_of_their_key():
    config = parse(
        TINY,
        "--config.seed=7",
        "--config.method.temperature=1",
        "--config.method.momentum=0.5",
        "--config.method.negatives=queue",
        "--config.duration=3 steps",
        "--config.method.weight_task=0 @ 0%, 1 @ 50%",
    ).config
    assert config.seed == 7
    assert config.method.temperature == 1.0
    assert config.method.momentum == "0.5"
    assert config.method.negatives is Negatives.QUEUE
    assert config.duration == "3 steps"
    assert config.method.weight_task == "0 @ 0%, 1 @ 50%"


def test_a_key_that_the_file_leaves_out_can_be_set_too():
    assert "keep" not in load_config(f"{CONFIGS}/tiny.py:cpu-1")
    config = parse(
        TINY,
        "--config.keep=5",
        "--config.method.column_chunk=4",
        "--config.method.filter.state=off",
        "--config.augmentation.crop=(0.5, 1)",
    ).config
    assert config.keep == 5
    assert config.method.column_chunk == 4
    assert config.method.filter.state is Switch.OFF
    assert config.augmentation.crop == (0.5, 1.0)


def test_an_override_may_mend_what_does_not_fit_the_file():
    spec = f"--config={CONFIGS}/tiny.py:h100-3"
    with pytest.raises(UserError, match="batch 16 does not divide over data=3"):
        parse(spec)
    assert parse(spec, "--config.batch=24").config.batch == 24


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--config is missing. how to use it"),
        (("--confg=x",), r"unknown flag '--confg=x' .*--config"),
        ((TINY, "--workdir"), "unknown flag '--workdir' .*write --name=value"),
        ((TINY, "extra"), "unknown flag 'extra'"),
        (("--config=configs/nowhere.py",), "there is no config file configs/nowhere.py"),
        ((TINY, "--deterministic=yes"), "--deterministic is on or off"),
        ((TINY, "--config.bach=3"), "unknown config key 'bach'; the nearest keys: batch"),
        ((TINY, "--config.method=3"), "unknown config key 'method'"),
        ((TINY, "--config.method.temprature=3"), r"'method.temprature'.*method\.temperature"),
        ((TINY, "--config.batch=x"), "config key batch = 'x' should be of type int"),
        ((TINY, "--config.batch=1.5"), "config key batch = '1.5' should be of type int"),
        ((TINY, "--config.optimizer.clip=x"), "should be of type float"),
        ((TINY, "--config.augmentation.crop=1"), "should be of type tuple"),
    ],
)
def test_wrong_use_is_named(flags, message):
    with pytest.raises(WrongUseError, match=message):
        parse(*flags)


def test_a_value_that_does_not_fit_is_the_configs_error():
    with pytest.raises(UserError, match="choose one of queue, queue_and_batch") as caught:
        parse(TINY, "--config.method.negatives=all")
    assert not isinstance(caught.value, WrongUseError)


def test_what_is_not_of_the_config(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    found = parse(TINY, "--profile=3-5", "--replay=20", "--deterministic=on")
    assert (found.profile, found.replay) == ("3-5", "20")
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=x {DETERMINISTIC}"


def test_help_prints_the_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    assert "how to use it" in capsys.readouterr().out


def test_a_file_without_the_function_is_named(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("x = 1\n")
    with pytest.raises(WrongUseError, match=r"has no function get_config"):
        parse(f"--config={file}")
