# SPDX-License-Identifier: Apache-2.0
"""An exported folder in the place of a training folder at every door; an export that is killed."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from doors import PROJECT, command, run_apart, run_evaluate, run_export, run_main, run_search
from random_run import write_run
from tiny_world import CONFIG, prepare_tiny

from cots_jax import Pretrained
from cots_jax.data.records import read_facts
from cots_jax.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Prepared pairs, `run` with random towers evaluated on them, and `out` exported from it."""
    root = tmp_path_factory.mktemp("exported")
    assert prepare_tiny(root).status == 0
    fingerprint = read_facts(root / "data" / "tiny")["fingerprint"][:12]
    keys = {"data__train": "data/tiny#train", "data__eval": "data/tiny#val"}
    write_run(root / "run", trained_on=f"data/tiny#train ({fingerprint})", **keys)
    assert run_evaluate(root, "--workdir=run").status == 0
    said = run_export(root, "--model=run", "--out=out")
    assert said.status == 0, said.err
    return root


def results(folder: pathlib.Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())["results"]


def test_the_card_has_what_evaluation_found(root: pathlib.Path) -> None:
    card = (root / "out" / "README.md").read_text()
    (result,) = results(root / "run")
    assert f"{result['image_to_text']['r1']:.1f}" in card
    licence = read_facts(root / "data" / "tiny")["licence"] or "without a licence note"
    assert f"- trained on {result['protocol']['lineage'][0]}: {licence}\n" in card


def test_evaluation_finds_the_same(root: pathlib.Path) -> None:
    """Lineage and protocol too; the folder stays a model with the report in it."""
    said = run_evaluate(root, "--model=out")
    assert said.status == 0, said.err
    assert results(root / "out") == results(root / "run")
    assert (root / "out" / "report.html").is_file()
    assert "already evaluated" in run_evaluate(root, "--model=out").err


def test_an_index_of_the_run_is_searched_with_it(root: pathlib.Path) -> None:
    made = run_search(root, "index", "--model=run", "--images=pictures", "--out=index")
    assert made.status == 0, made.err
    flags = ("query", "--index=index", "--text=bars over ring", "--json")
    found = [run_search(root, *flags, f"--model={m}").out for m in ("out", "run")]
    assert found[0] == found[1]
    assert len(json.loads(found[0])["hits"]) == 10
    again = run_search(root, "index", "--model=out", "--images=pictures", "--out=index")
    assert "embedded 0, dropped 0" in again.err


def test_it_finds_what_the_model_finds(root: pathlib.Path) -> None:
    script = str(PROJECT / "benchmarks" / "export_parity.py")
    flags = ("--model=run", "--export=out", "--data=data/tiny#train", "--queries=40")
    said = run_apart(root, [sys.executable, script, *flags])
    assert said.status == 0, said.err
    report = json.loads(said.out)
    for form in ("safetensors", "stablehlo", "onnx"):
        assert report[form]["different"] == 0
        assert report[form]["same"] + report[form]["swapped"] == report[form]["queries"] == 40
        assert report[form]["image_difference"] < 1e-5


def test_a_run_starts_from_it(root: pathlib.Path) -> None:
    """One step, so that it is near to its start; what it was trained on comes along."""
    flags = [
        "--workdir=runs/tuned",
        "--config.init_from.run=out",
        "--config.data.tokenizer=init_from",
        "--config.duration=1 steps",
        "--config.optimizer.learning_rate=1e-6",
    ]
    said = run_main(root, f"--config={CONFIG}:contrastive", *flags)
    assert said.status == 0, said.err
    start, tuned = Pretrained.load(root / "out"), Pretrained.load(root / "runs/tuned")
    assert tuned.lineage.trained_on == start.lineage.trained_on
    assert tuned.lineage.fine_tuned_on == (
        *start.lineage.fine_tuned_on,
        *start.lineage.trained_on,  # the same rows, now to fine-tune on
    )
    texts = ["bars over ring", "slope over night"]
    np.testing.assert_allclose(tuned.encode_texts(texts), start.encode_texts(texts), atol=1e-3)


def test_a_killed_export_leaves_no_folder(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Killed as soon as its arrays are written; the same command then does it all."""
    flags = ("export", f"--model={root / 'run'}", "--out=new", "--formats=onnx")
    running = subprocess.Popen(command(*flags), cwd=tmp_path, stderr=subprocess.DEVNULL)
    staging = tmp_path / ".new.unfinished"
    patience = time.monotonic() + 300
    while not (staging / "model.safetensors").exists() and time.monotonic() < patience:
        assert running.poll() is None
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert [path.name for path in tmp_path.iterdir()] == [staging.name]
    with pytest.raises(UserError):
        Pretrained.load(staging)
    said = run_apart(tmp_path, command(*flags))
    assert said.status == 0, said.err
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert Pretrained.load(tmp_path / "new").step == Pretrained.load(root / "run").step
