# SPDX-License-Identifier: Apache-2.0
"""The demo's own recipe, cut short: at its end each level of interaction has learned something."""

import json
import pathlib
import sys

import pytest
from doors import PROJECT, run_apart

from cots_jax.data.specs import parse_sources
from cots_jax.image_tokenizer import load_frozen
from cots_jax.offline.levels import check_levels, task_distance
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.evaluation import evaluate_set, open_sets

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]
STEPS = 2400  # of the demo's 6,000; after 1,200 the codes are not yet predicted
SHORTER = (
    f"--config.duration={STEPS} steps",
    "--config.method.masked.image_every=4",  # twice the demo's pictures a step, in fewer steps
    "--config.evaluate_every=100%",
)
HELD_OUT = "emoji_dev_style"
LEAST_SHARE = 0.05  # of the towers' gradient norm, while an objective is on


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """A folder in which it was trained, with all levels and with the instance level alone."""
    pytest.importorskip("resvg_py", reason="needs the extra cots_jax[emoji]")
    root = tmp_path_factory.mktemp("demo")

    def door(name: str, *flags: str) -> None:
        said = run_apart(root, [sys.executable, "-m", f"cots_jax.{name}", *flags], timeout=2400)
        assert said.status == 0, said.err

    def train(config: str, workdir: str, *flags: str) -> None:
        door("main", f"--config={PROJECT}/configs/{config}", f"--workdir=runs/{workdir}", *flags)

    door("prepare", "emoji", "--out=data/emoji")
    train("dvae.py:emoji", "demo-dvae")
    train("demo.py", "demo", *SHORTER)
    train("demo.py:contrastive", "alone", *SHORTER, "--config.diagnose_every=200%")
    return root


@pytest.fixture
def here(root, monkeypatch) -> pathlib.Path:
    monkeypatch.chdir(root)
    return root


def open_held_out(run: pathlib.Path):
    """The trained model, and the held-out pairs it was never trained on."""
    opened = Pretrained.load(run)
    sources = parse_sources(f"data/emoji#{HELD_OUT}", "data", "")
    size, length = opened.preprocessing.size, opened.config.data.text_length
    return opened, open_sets(sources, opened.tokenizer, size=size, length=length)


def test_masked_words_and_codes_are_predicted_with_the_paired_feature(here):
    opened, sets = open_held_out(here / "runs/demo")
    with sets as (held_out,):
        checks = check_levels(opened, load_frozen(here / "runs/demo"), held_out)
    assert len(checks) == 4
    assert [check.name for check in checks if not check.alive] == []


def test_both_retrieval_tasks_agree_more_than_without_their_alignment(here):
    distance = {}
    for name in ("demo", "alone"):
        opened, sets = open_held_out(here / "runs" / name)
        with sets as (held_out,):
            scored = evaluate_set(
                opened.towers, opened.model, opened.preprocessing, held_out, opened.lineage
            )
        distance[name] = task_distance(opened, scored)
    assert distance["demo"] < distance["alone"]


def test_token_and_task_level_move_the_towers_while_they_are_on(here):
    lines = (here / "runs/demo/metrics.jsonl").read_text().splitlines()
    shares = [line for line in map(json.loads, lines) if "gradient_share/task" in line]
    assert len(shares) == 20
    token = [line["gradient_share/mvm"] + line["gradient_share/mlm"] for line in shares]
    task = [line["gradient_share/task"] for line in shares]
    for level in (token, task):
        on = [share for share in level if share > 0]
        assert len(on) >= len(shares) / 2
        assert min(on) >= LEAST_SHARE
