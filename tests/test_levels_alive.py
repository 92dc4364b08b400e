# SPDX-License-Identifier: Apache-2.0
"""At the end of a short training each level of interaction has learned something.

Masked words and codes in the tiny world, where they are learned within a minute; the alignment of
both tasks with the demo's recipe, cut short, on drawings that are held out.
"""

import json
import pathlib
import statistics

import pytest
from doors import PROJECT, command, run_apart, run_main
from tiny_world import CONFIG, Tiny

from cots_jax.data.specs import parse_sources
from cots_jax.image_tokenizer import load_frozen
from cots_jax.offline.levels import check_levels, task_distance
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.evaluation import evaluate_set, open_sets

pytestmark = pytest.mark.slow
LEAST_SHARE = 0.05  # of the towers' gradient norm, while a level has its full weight
LOOKS = 100


def open_held_out(run: pathlib.Path, held_out: str):
    """The trained model, and pairs that it was never trained on."""
    opened = Pretrained.load(run)
    sources = parse_sources(held_out, "data", "")
    size, length = opened.preprocessing.size, opened.config.data.text_length
    return opened, open_sets(sources, opened.tokenizer, size=size, length=length)


@pytest.fixture(scope="module")
def learned(tiny: Tiny, tmp_path_factory) -> Tiny:
    """The tiny world, where `runs/learned` was trained ten times as long as its config has it."""
    copy = tiny.copy(tmp_path_factory.mktemp("learned"), "tiny-dvae")
    flags = ("duration=400 steps", "checkpoint_every=100%", "evaluate_every=100%")
    more = [f"--config.{flag}" for flag in (*flags, "diagnose_every=1%")]
    said = run_main(copy.root, f"--config={CONFIG}", "--workdir=runs/learned", *more)
    assert said.status == 0, said.err
    return copy


def test_masked_words_and_codes_are_predicted_with_the_paired_feature(learned, monkeypatch):
    monkeypatch.chdir(learned.root)
    run = pathlib.Path("runs/learned")
    opened, sets = open_held_out(run, "data/tiny#val")
    with sets as (held_out,):
        checks = check_levels(opened, load_frozen(run), held_out)
    assert len(checks) == 4
    assert [check.name for check in checks if not check.alive] == []


def test_token_and_task_level_move_the_towers_while_they_have_their_full_weight(learned):
    """By the config the token level to half of the training, the task level from 40 % on.

    A look sees eight masked texts, of which this world's training may have learned every word: the
    share of a single one fell to 0.008 on one machine, where others had 0.07. So each look has to
    find a gradient, and each quarter of the training, of 25 looks, the least share; eight seeds
    had 0.10 or more.
    """
    lines = (learned.root / "runs/learned/metrics.jsonl").read_text().splitlines()
    shares = [line for line in map(json.loads, lines) if "gradient_share/task" in line]
    assert len(shares) == LOOKS
    token = [line["gradient_share/mvm"] + line["gradient_share/mlm"] for line in shares]
    task = [line["gradient_share/task"] for line in shares]
    first, second, third, fourth = (slice(LOOKS * i // 4, LOOKS * (i + 1) // 4) for i in range(4))
    for quarter in (token[first], token[second], task[third], task[fourth]):
        assert min(quarter) > 0
        assert statistics.fmean(quarter) >= LEAST_SHARE


@pytest.fixture(scope="module")
def trained(tmp_path_factory, users_compiler) -> pathlib.Path:
    """A folder in which the demo's recipe was trained, and the instance level alone."""
    pytest.importorskip("resvg_py", reason="needs the extra cots_jax[emoji]")
    root = tmp_path_factory.mktemp("demo")
    flags = ("duration=200 steps", "checkpoint_every=100%", "evaluate_every=100%")
    more = [f"--config.{flag}" for flag in (*flags, "diagnose_every=200%")]
    doors = [command("prepare", "emoji", "--out=data/emoji")]
    for part in ("kl", "contrastive"):
        config = f"--config={PROJECT}/configs/demo.py:{part}"
        doors.append(command("main", config, f"--workdir=runs/{part}", *more))
    for door in doors:
        said = run_apart(root, door, timeout=2400)
        assert said.status == 0, said.err
    return root


def test_both_retrieval_tasks_agree_more_than_without_their_alignment(trained, monkeypatch):
    monkeypatch.chdir(trained)
    distance = {}
    for part in ("kl", "contrastive"):
        opened, sets = open_held_out(trained / "runs" / part, "data/emoji#emoji_dev_style")
        with sets as (held_out,):
            scored = evaluate_set(
                opened.towers, opened.model, opened.preprocessing, held_out, opened.lineage
            )
        distance[part] = task_distance(opened, scored)
    assert distance["kl"] < distance["contrastive"]
