# SPDX-License-Identifier: Apache-2.0
"""Image tokens made ahead of time by the door, and a run that reads them."""

import json
import pathlib
import shutil

import pytest
from doors import run_evaluate, run_main, run_prepare
from tiny_world import CONFIG, Tiny

AHEAD = ("--image_tokens=runs/tiny-dvae", "--model=tiny-16")
# Whole pictures in their own colours, as the ids made ahead of time are.
WHOLE = (
    *("--config.augmentation.shift=0", "--config.augmentation.brightness=0"),
    *("--config.duration=8 steps", "--config.log_every=1 steps"),
)


def prepare_again(root: pathlib.Path, *more: str):
    return run_prepare(
        root, "pairs", "--captions=captions.csv", "--images=pictures", "--out=data/tiny", *more
    )


@pytest.fixture
def ahead(tiny: Tiny, tmp_path: pathlib.Path) -> Tiny:
    """The tiny world with the ids beside its data."""
    copy = tiny.copy(tmp_path, "tiny-dvae")
    (tmp_path / "pictures").symlink_to(tiny.root / "pictures")
    (tmp_path / "captions.csv").symlink_to(tiny.root / "captions.csv")
    said = prepare_again(tmp_path, *AHEAD)
    assert said.status == 0, said.err
    assert "image tokens of runs/tiny-dvae made in data/tiny" in said.err
    return copy


def logged(root: pathlib.Path, run: str) -> list[dict]:
    rows = (root / "runs" / run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, rows) if "loss/mvm" in row]


@pytest.mark.slow
def test_they_are_the_ids_that_are_made_online(ahead: Tiny) -> None:
    online = run_main(ahead.root, f"--config={CONFIG}", "--workdir=runs/online", *WHOLE)
    assert online.status == 0, online.err
    flags = (*WHOLE, "--config.image_tokenizer=")
    read = run_main(ahead.root, f"--config={CONFIG}", "--workdir=runs/ahead", *flags)
    assert read.status == 0, read.err
    one, other = logged(ahead.root, "online"), logged(ahead.root, "ahead")
    assert len(one) > 3
    for mine, theirs in zip(one, other, strict=True):
        assert mine["loss/mvm"] == pytest.approx(theirs["loss/mvm"], rel=1e-4)
    assert not (ahead.root / "runs" / "ahead" / "frozen").exists()
    said = run_evaluate(ahead.root, "--workdir=runs/ahead")
    assert said.status == 0, said.err
    assert "masked vision modelling on val" in said.err


def test_a_second_time_they_are_there(ahead: Tiny) -> None:
    said = prepare_again(ahead.root, *AHEAD)
    assert said.status == 0
    assert "image tokens of runs/tiny-dvae already there in data/tiny" in said.err


def test_pictures_that_are_cut_do_not_go_with_them(ahead: Tiny) -> None:
    said = run_main(
        ahead.root, f"--config={CONFIG}", "--workdir=runs/cut", "--config.image_tokenizer="
    )
    assert said.status == 1
    assert "made ahead of time are of whole pictures: set config.augmentation.shift" in said.line


def test_colours_that_are_jittered_do_not_go_with_them(ahead: Tiny) -> None:
    flags = ("--config.image_tokenizer=", "--config.augmentation.shift=0")
    said = run_main(ahead.root, f"--config={CONFIG}", "--workdir=runs/cut", *flags)
    assert said.status == 1
    assert "in their own colours: set config.method.masked.tokenizer_input=clean" in said.line


def test_another_model_does_not_go_with_them(ahead: Tiny) -> None:
    said = prepare_again(ahead.root, "--image_tokens=runs/tiny-dvae", "--model=b16-384")
    assert said.status == 1
    assert "makes 2 x 2 codes, model b16-384 has 24 x 24 patches" in said.err


def test_a_run_does_not_go_on_with_other_ids(ahead: Tiny) -> None:
    flags = (f"--config={CONFIG}", "--workdir=runs/ahead", *WHOLE, "--config.image_tokenizer=")
    assert run_main(ahead.root, *flags).status == 0
    file = ahead.root / "data" / "tiny" / "image_tokens.json"
    file.write_text(file.read_text().replace('"digest": "', '"digest": "0'))
    said = run_main(ahead.root, *flags)
    assert said.status == 1
    assert "not those that runs/ahead was trained with" in said.line


def test_codes_for_another_model_do_not_keep_a_run_from_its_evaluation(
    ahead: Tiny, tiny: Tiny
) -> None:
    """One that has no use for them: nothing was read beside its pictures."""
    run = ahead.root / "runs" / "tiny"
    shutil.copytree(tiny.run, run)
    shutil.rmtree(run / "frozen")
    file = ahead.root / "data" / "tiny" / "image_tokens.json"
    file.write_text(file.read_text().replace('"grid": 2', '"grid": 24'))
    said = run_evaluate(ahead.root, "--workdir=runs/tiny", "--again")
    assert said.status == 0, said.err
    assert said.out == tiny.evaluated.out
    assert "masked vision modelling" not in said.err
