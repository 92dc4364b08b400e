# SPDX-License-Identifier: Apache-2.0
"""Every front door from end to end on 64 pairs, and what it says when it is used wrongly."""

import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from doors import Said, command, run_apart, run_evaluate, run_main
from tiny_world import CONFIG, Tiny

from cots_jax import checkpoint
from cots_jax.train import logging

pytestmark = pytest.mark.xdist_group("tiny")

TRAIN = f"--config={CONFIG}"
TOKENIZER = f"--config={CONFIG}:dvae"


class TestTheChain:
    def test_every_door_is_content(self, tiny: Tiny) -> None:
        for said in (tiny.prepared, tiny.tokenizer, tiny.trained, tiny.evaluated):
            assert said.status == 0, said.err

    def test_training_leaves_what_scripts_read(self, tiny: Tiny) -> None:
        names = {path.name for path in tiny.run.iterdir()}
        assert names >= {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "frozen"}
        rows = logging.read(tiny.run / "metrics.jsonl")
        steps = [row["step"] for row in rows if "loss" in row]
        assert steps == list(range(5, 41, 5))
        logged = {key for row in rows for key in row}
        terms = {f"{kind}/{name}" for kind in ("loss", "weight") for name in OBJECTIVES}
        chances = {f"chance/{name}" for name in ("instance", "mvm", "mlm")}
        assert logged >= terms | chances | {"kept/tiny", "data_wait", "pairs_per_second"}
        assert {f"gradient_share/{name}" for name in OBJECTIVES} <= logged

    def test_every_loss_is_a_number_and_every_objective_was_on(self, tiny: Tiny) -> None:
        rows = [row for row in logging.read(tiny.run / "metrics.jsonl") if "loss" in row]
        for name in OBJECTIVES:
            on = [row for row in rows if row[f"weight/{name}"] > 0]
            values = [row[f"loss/{name}"] for row in on]
            assert all(np.isfinite(values))
            assert max(values) > 0, name
            off = [row for row in rows if row[f"weight/{name}"] == 0]
            assert not any(f"loss/{name}" in row for row in off)

    def test_progress_names_losses_beside_their_chance(self, tiny: Tiny) -> None:
        lines = tiny.trained.err.splitlines()
        first = next(line for line in lines if line.startswith("step 5/40"))
        for part in ("pairs/s", "data wait", "instance ", "/7.", "temperature", "kept"):
            assert part in first

    def test_evaluation_prints_a_table_and_writes_both_files(self, tiny: Tiny) -> None:
        assert "image -> text" in tiny.evaluated.out
        assert "text -> image" in tiny.evaluated.out
        page = (tiny.run / "report.html").read_text(encoding="utf-8")
        assert "<svg" in page
        assert "http://" not in page.replace("http://www.w3.org", "")

    def test_results_have_the_promised_form(self, tiny: Tiny) -> None:
        (result,) = json.loads((tiny.run / "results.json").read_text())["results"]
        assert set(result) == {"name", "protocol", "image_to_text", "text_to_image", "rsum"}
        for way in ("image_to_text", "text_to_image"):
            assert set(result[way]) >= {"r1", "r5", "r10", "median_rank", "mean_rank"}
        protocol = result["protocol"]
        assert (protocol["images"], protocol["texts"]) == (16, 16)
        assert protocol["tie_rule"] == "pessimistic"
        assert protocol["split"] == "val"

    def test_an_evaluation_elsewhere_leaves_the_run_alone(
        self, tiny: Tiny, tmp_path: pathlib.Path
    ) -> None:
        before = (tiny.run / "results.json").read_bytes()
        flags = ("--workdir=runs/tiny", "--data=data/tiny#train", "--json", f"--out={tmp_path}")
        said = run_evaluate(tiny.root, *flags)
        assert said.status == 0, said.err
        (result,) = json.loads(said.out)["results"]
        assert result["protocol"]["images"] == 48
        assert json.loads((tmp_path / "results.json").read_text())["results"] == [result]
        assert (tiny.run / "results.json").read_bytes() == before

    def test_given_vectors_are_scored(self, tmp_path: pathlib.Path) -> None:
        np.save(tmp_path / "i.npy", np.eye(4, dtype=np.float32))
        np.save(tmp_path / "t.npy", np.eye(4, dtype=np.float32)[[0, 1, 3, 2]])
        np.save(tmp_path / "m.npy", np.arange(4))
        flags = ["--image_embeddings=i.npy", "--text_embeddings=t.npy", "--text_image=m.npy"]
        said = run_evaluate(tmp_path, *flags, "--json")
        assert said.status == 0, said.err
        assert json.loads(said.out)["results"][0]["image_to_text"]["r1"] == 50.0


OBJECTIVES = ("instance", "mvm", "mlm", "task")


class TestHelp:
    @pytest.mark.parametrize("door", ["main", "evaluate", "prepare"])
    def test_help_goes_to_standard_output(self, tmp_path: pathlib.Path, door: str) -> None:
        said = run_apart(tmp_path, command(door, "--help"))
        assert said.status == 0, said.err
        assert f"python -m cots_jax.{door}" in said.out
        assert said.err == ""


class TestWrongUse:
    """Exit 2: the command line cannot be understood."""

    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            ([], "--config is missing"),
            (["--confg=x"], "--config"),
            (["--config=nowhere/tiny.py"], "there is no config file nowhere/tiny.py"),
            ([f"{TRAIN}:dvea"], "dvae"),
            ([f"{TRAIN}:h10"], "h100"),
            ([f"{TRAIN}:v5e-0"], "v5e"),
            ([TRAIN, "--config.method.temprature=1"], "method.temperature"),
            ([TRAIN, "--config.btach=8"], "batch"),
            ([TRAIN, "--config.batch=many"], "should be of type int"),
        ],
    )
    def test_one_line_names_the_remedy(
        self, tmp_path: pathlib.Path, flags: list[str], named: str
    ) -> None:
        said = run_main(tmp_path, *flags)
        assert said.status == 2
        assert named in said.line
        assert list(tmp_path.iterdir()) == []


class TestBadInput:
    """Exit 1 with one line that names the remedy."""

    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            (["--config.batch=18"], "use 16 or 20"),
            (["--config.hardware.chips=2", "--config.hardware.fsdp=3"], "do not divide"),
            (["--config.hardware.chips=64", "--config.batch=256"], "wants 64 chips, 1 are here"),
            (["--config.model=tinny-16"], "tiny-16"),
            (["--config.data.text_length=33"], "use 32 or fewer"),
            (["--config.data.train=data/tiny#trian"], "train"),
            (["--config.data.eval=data/tiny"], "FOLDER#SPLIT"),
            (["--config.duration=soon"], "'2000 steps'"),
            (["--config.duration=0 steps"], "no step at all"),
            (["--config.method.weight_mvm=high"], "not a finite number"),
            (["--config.method.negatives=bank"], "queue_and_batch"),
            (["--config.method.negatives=queue", "--config.method.queue_length=0"], "no negatives"),
            (["--config.image_tokenizer="], "config.image_tokenizer"),
            (["--config.image_tokenizer=runs/none"], "there is no image tokenizer in runs/none"),
            (["--config.image_tokenizer=runs/tiny"], "holds no image tokenizer"),
        ],
    )
    def test_a_config_that_cannot_run(
        self, tiny: Tiny, tmp_path: pathlib.Path, flags: list[str], named: str
    ) -> None:
        said = run_main(tiny.root, TRAIN, f"--workdir={tmp_path}/run", *flags)
        assert said.status == 1
        assert named in said.line

    def test_missing_data_names_the_command_that_makes_them(self, tmp_path: pathlib.Path) -> None:
        said = run_main(tmp_path, TRAIN)
        assert said.status == 1
        assert "python -m cots_jax.prepare pairs" in said.line

    def test_a_batch_that_the_devices_do_not_divide(self, tmp_path: pathlib.Path) -> None:
        flags = ["--config.batch=20", "--config.hardware.chips=8"]
        said = run_main(tmp_path, TRAIN, *flags)
        assert said.status == 1
        assert "batch 20 does not divide over data=8" in said.line

    def test_an_unfinished_tokenizer(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        copy = tiny.copy(tmp_path, "tiny-dvae")
        shutil.rmtree(copy.root / "runs" / "tiny-dvae" / "checkpoints" / "200")
        said = run_main(copy.root, TRAIN)
        assert said.status == 1
        assert "has not finished: run again python -m cots_jax.main" in said.line

    def test_an_unfit_tokenizer(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        copy = tiny.copy(tmp_path)
        flags = ["--config.duration=2 steps", "--config.checkpoint_every=1 steps"]
        said = run_main(copy.root, TOKENIZER, *flags)
        assert said.status == 1
        assert "error: the tokenizer is not fit for use" in said.err.splitlines()[-1]
        assert "Traceback" not in said.err
        assert run_main(copy.root, TRAIN, "--config.image_tokenizer=runs/tiny-dvae").status == 1

    def test_a_tokenizer_of_another_grid(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        flags = ["--config.model=emoji-32", f"--workdir={tmp_path}/run"]
        said = run_main(tiny.root, TRAIN, *flags)
        assert said.status == 1
        assert "16 px into cells of 8, the image tower 32 px into patches of 8" in said.line

    def test_a_folder_that_is_no_run(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        (tmp_path / "holiday.txt").write_text("mine")
        said = run_main(tiny.root, TRAIN, f"--workdir={tmp_path}")
        assert said.status == 1
        assert "no run of ours: choose another --workdir" in said.line
        assert (tmp_path / "holiday.txt").read_text() == "mine"
        assert not (tmp_path / "config.json").exists()

    @pytest.mark.parametrize("text", ["", "{", '{"name": "tiny"}', "\udcff"])
    def test_a_damaged_config(self, tiny: Tiny, tmp_path: pathlib.Path, text: str) -> None:
        run = tmp_path / "run"
        run.mkdir()
        (run / "config.json").write_bytes(text.encode(errors="surrogateescape"))
        said = run_main(tiny.root, TRAIN, f"--workdir={run}")
        assert said.status == 1
        assert "config.json cannot be read" in said.line
        assert (run / "config.json").read_bytes() == text.encode(errors="surrogateescape")

    def test_a_workdir_below_a_file(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        (tmp_path / "file").write_text("")
        said = run_main(tiny.root, TRAIN, f"--workdir={tmp_path}/file/run")
        assert said.status == 1
        assert "choose another --workdir" in said.line

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_workdir_that_may_only_be_read(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        tmp_path.chmod(0o500)
        said = run_main(tiny.root, TRAIN, f"--workdir={tmp_path}")
        tmp_path.chmod(0o700)
        assert said.status == 1
        assert "choose another --workdir" in said.line

    @pytest.mark.parametrize("workdir", ["runs/none", "data/tiny"])
    def test_evaluating_what_was_never_trained(self, tiny: Tiny, workdir: str) -> None:
        said = run_evaluate(tiny.root, f"--workdir={workdir}")
        assert said.status == 1
        assert workdir in said.line

    def test_evaluating_a_tokenizer(self, tiny: Tiny) -> None:
        said = run_evaluate(tiny.root, "--workdir=runs/tiny-dvae")
        assert said.status == 1
        assert "not a retrieval model" in said.line

    def test_evaluating_on_a_split_that_is_not_there(self, tiny: Tiny) -> None:
        said = run_evaluate(tiny.root, "--workdir=runs/tiny", "--data=data/tiny#test")
        assert said.status == 1
        assert "train" in said.line


FULL_DISK = """
import resource
import sys
from cots_jax import checkpoint, main
save, saved = checkpoint.save, []
def save_on_a_full_disk(folder, step, *rest, **options):
    if saved:  # no file may grow beyond this, so that the second checkpoint does not fit
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    save(folder, step, *rest, **options)
    if folder.name == "checkpoints":
        saved.append(step)
checkpoint.save = save_on_a_full_disk
sys.exit(main.main(sys.argv[1:]))
"""


def test_a_disk_that_fills_up_costs_no_checkpoint(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    said = run_apart(copy.root, [sys.executable, "-c", FULL_DISK, TRAIN])
    assert said.status == 1
    assert said.err.splitlines()[-1].startswith("error: cannot save step 10")
    assert "step 5 is still there" in said.err
    found = checkpoint.latest(copy.run / "checkpoints")
    assert found is not None
    assert (found.step, found.damaged) == (5, ())
    again = run_main(copy.root, TRAIN)
    assert again.status == 0, again.err
    assert "resuming at step 5 of 40" in again.err


def test_a_second_run_says_what_is_there(tiny: Tiny) -> None:
    before = contents(tiny.run)
    said = run_main(tiny.root, TRAIN)
    assert said.status == 0
    assert said.line == "runs/tiny is trained to step 40 of 40: nothing to do"
    assert contents(tiny.run) == before


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_another_config_is_refused_by_the_keys_that_differ(tiny: Tiny) -> None:
    before = contents(tiny.run)
    flags = ["--config.optimizer.weight_decay=0.5", "--config.seed=7", "--config.log_every=1 steps"]
    said = run_main(tiny.root, TRAIN, *flags)
    assert said.status == 1
    assert "optimizer.weight_decay: 0.05 then, 0.5 now" in said.line
    assert "seed: 0 then, 7 now" in said.line
    assert "log_every" not in said.line
    assert contents(tiny.run) == before


def test_evaluation_gives_the_numbers_of_the_loop(tiny: Tiny) -> None:
    rows = logging.read(tiny.run / "metrics.jsonl")
    logged = [row for row in rows if "recall/val/rsum" in row][-1]
    assert logged["step"] == 40
    (result,) = json.loads((tiny.run / "results.json").read_text())["results"]
    for way in ("image_to_text", "text_to_image"):
        for key in ("r1", "r5", "r10", "median_rank"):
            assert float(f"{result[way][key]:.9g}") == logged[f"recall/val/{way}/{key}"]
    assert float(f"{result['rsum']:.9g}") == logged["recall/val/rsum"]


def test_contrastive_alone_trains_without_a_tokenizer(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path)
    said = run_main(copy.root, f"{TRAIN}:contrastive", "--config.duration=4 steps")
    assert said.status == 0, said.err
    evaluated: Said = run_evaluate(copy.root, "--workdir=runs/tiny-contrastive")
    assert evaluated.status == 0, evaluated.err
    assert "masked" not in evaluated.err
