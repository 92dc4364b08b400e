# SPDX-License-Identifier: Apache-2.0
"""A later version that builds a size otherwise does not read older towers in silence."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest
from doors import run_evaluate, run_export, run_main
from random_run import write_run
from tiny_world import CONFIG, Tiny

from cots_jax.errors import UserError
from cots_jax.models.text import Pooling
from cots_jax.models.two_stream import SIZES, model_size
from cots_jax.pretrained import Pretrained
from cots_jax.schema import HardwareConfig
from cots_jax.switches import AttentionForm, Precision, Remat, Switch
from cots_jax.weights.architecture import architecture, same_architecture

ELSEWHERE = HardwareConfig(
    precision=Precision.BFLOAT16,
    scan=Switch.OFF,
    remat=Remat.ON,
    attention=AttentionForm.FUSED,
)
SAYS = "text/pooling: 'cls' then, 'last' now"


def stored(name: str) -> dict[str, Any]:
    """As the facts of a checkpoint of that size come back."""
    facts = {"architecture": architecture(SIZES[name]), "config": {"model": name}}
    return json.loads(json.dumps(facts))


@pytest.fixture
def built_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    size = SIZES["tiny-16"]
    text = dataclasses.replace(size.text, pooling=Pooling.LAST)
    monkeypatch.setitem(SIZES, "tiny-16", dataclasses.replace(size, text=text))


@pytest.mark.parametrize("name", SIZES)
def test_what_is_stored_is_the_same_on_any_hardware(name: str) -> None:
    here, there = (model_size(name, row) for row in (HardwareConfig(), ELSEWHERE))
    assert architecture(here) == architecture(there)
    same_architecture(stored(name), there, "runs/x")


@pytest.mark.usefixtures("built_otherwise")
def test_a_checkpoint_that_says_nothing_passes() -> None:
    same_architecture({"config": {"model": "tiny-16"}}, SIZES["tiny-16"], "runs/x")


def test_an_option_that_is_gone_is_another() -> None:
    facts = stored("tiny-16")
    facts["architecture"]["text"]["turn"] = 1
    with pytest.raises(UserError, match="text/turn: 1 then, None now"):
        same_architecture(facts, SIZES["tiny-16"], "runs/x")


def test_an_option_that_is_younger_had_its_default() -> None:
    for name in ("tiny-16", "clip-b16-224"):  # pooled at [CLS], the default, and at the last token
        facts = stored(name)
        del facts["architecture"]["text"]["pooling"]
        if SIZES[name].text.pooling is Pooling.CLS:
            same_architecture(facts, SIZES[name], "runs/x")
        else:
            with pytest.raises(UserError, match=SAYS):
                same_architecture(facts, SIZES[name], "runs/x")


def test_an_exported_folder_keeps_it(
    tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "out"
    assert run_export(tmp_path, f"--model={run}", f"--out={out}").status == 0
    Pretrained.load(out)
    request.getfixturevalue("built_otherwise")
    for folder in (run, out):
        with pytest.raises(UserError, match=SAYS):
            Pretrained.load(folder)


def test_every_door_that_reads_a_run_says_so(
    tiny: Tiny, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    copy = tiny.copy(tmp_path, "tiny", "tiny-dvae")
    request.getfixturevalue("built_otherwise")
    for said in (
        run_main(copy.root, f"--config={CONFIG}"),
        run_evaluate(copy.root, "--workdir=runs/tiny"),
    ):
        assert said.status == 1
        assert SAYS in said.err
