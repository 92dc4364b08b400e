# SPDX-License-Identifier: Apache-2.0
"""Every front door from end to end on 64 pairs, and what it says when it is used wrongly."""

import json
import os
import pathlib
import shutil
import sys
from unittest import mock

import numpy as np
import pytest
from doors import Said, command, run_apart, run_evaluate, run_main
from tiny_world import CONFIG, Tiny, prepare_tiny

from cots_jax import checkpoint
from cots_jax.train import logging

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

    def test_a_run_that_begins_says_how_long_its_texts_are(self, tiny: Tiny) -> None:
        said = [line for line in tiny.trained.err.splitlines() if line.startswith("texts: ")]
        assert len(said) == 1
        assert "of 8 tokens at the mean" in said[0]

    def test_progress_shows_the_newest_recall(self, tiny: Tiny) -> None:
        lines = [line for line in tiny.trained.err.splitlines() if line.startswith("step ")]
        first, later = (next(x for x in lines if x.startswith(f"step {n}/40")) for n in (20, 25))
        assert "R@1" not in first
        rows = logging.read(tiny.run / "metrics.jsonl")
        recall = next(row for row in rows if row["step"] == 20 and "recall/val/rsum" in row)
        ways = ("image_to_text", "text_to_image")
        shown = " ".join(f"{recall[f'recall/val/{way}/r1']:.1f}" for way in ways)
        assert f" | R@1 {shown} | loss " in later

    def test_what_the_filter_dropped_is_listed(self, tiny: Tiny) -> None:
        lines = [json.loads(line) for line in (tiny.run / "dropped.jsonl").read_text().splitlines()]
        rows = [json.loads(line) for line in (tiny.run / "metrics.jsonl").read_text().splitlines()]
        logged = {row["step"]: row["kept/tiny"] for row in rows if "kept/tiny" in row}
        assert min(logged.values()) < 1
        for step, kept in logged.items():
            assert sum(line["step"] == step for line in lines) == round((1 - kept) * 16)
        for line in lines:
            assert line["step"] > 10  # a quarter of the run is its warm-up
            assert line["similarity"] < line["threshold"]
            assert line["id"] == "-".join(line["caption"].split(" over ")) + ".png"

    def test_evaluation_prints_a_table_and_writes_both_files(self, tiny: Tiny) -> None:
        assert "image -> text" in tiny.evaluated.out
        assert "text -> image" in tiny.evaluated.out
        page = (tiny.run / "report.html").read_text(encoding="utf-8")
        assert "<svg" in page
        assert "http://" not in page.replace("http://www.w3.org", "")

    def test_results_have_the_promised_form(self, tiny: Tiny) -> None:
        (result,) = json.loads((tiny.run / "results.json").read_text())["results"]
        assert set(result) == {
            *("name", "protocol", "image_to_text", "text_to_image", "rsum", "interval_95")
        }
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
            ([TRAIN, "--config.batch=True"], "should be of type int"),
            ([TRAIN, "--replay=abc"], "the number of a logged step"),
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
            (["--config.method.masked.text_ratio=0"], "config.method.weight_mlm=0"),
            (["--config.method.masked.image_ratio=0.1"], "none of 4 patches: use 0.25 or more"),
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
        assert {path.name for path in tmp_path.glob("run/*")} <= {".lock"}  # bound to no config

    def test_what_a_killed_first_start_has_left(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        for name in (".lock", ".config.json.1"):
            (tmp_path / name).write_text("{")
        flags = ["--config.data.train=data/tiny#trian"]
        said = run_main(tiny.root, TRAIN, f"--workdir={tmp_path}", *flags)
        assert said.status == 1
        assert "trian" in said.line

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

    def test_a_tokenizer_without_pictures_to_judge_it_by(
        self, tiny: Tiny, tmp_path: pathlib.Path
    ) -> None:
        said = run_main(tiny.root, TOKENIZER, f"--workdir={tmp_path}/run", "--config.data.eval=")
        assert said.status == 1
        assert "config.data.eval names no pictures to judge" in said.line

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
        assert "a grid of 2 x 2 codes, the image tower 4 x 4 patches" in said.line

    def test_a_folder_that_is_no_run(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        (tmp_path / "holiday.txt").write_text("mine")
        said = run_main(tiny.root, TRAIN, f"--workdir={tmp_path}")
        assert said.status == 1
        assert "no run of ours: choose another --workdir" in said.line
        assert (tmp_path / "holiday.txt").read_text() == "mine"
        assert not (tmp_path / "config.json").exists()

    @pytest.mark.parametrize("text", ["", "{", "3", '{"name": "tiny"}', "\udcff"])
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

    def test_evaluating_on_a_split_that_is_not_there(self, tiny: Tiny) -> None:
        said = run_evaluate(tiny.root, "--workdir=runs/tiny", "--data=data/tiny#test")
        assert said.status == 1
        assert "train" in said.line


PROGRESS = (
    *("tiny: from step", "texts: ", "memory lies ", "step ", "first step after"),
    "nothing is recorded: ",
)

FULL_DISK = """
import resource
import sys
from cots_jax import checkpoint, main
save, saved = checkpoint.Saver.save, []
def save_on_a_full_disk(saver, step, *rest, **options):
    saver.wait()
    if saved:  # no file may grow beyond this, so that the second checkpoint does not fit
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    save(saver, step, *rest, **options)
    saved.append(step)
checkpoint.Saver.save = save_on_a_full_disk
sys.exit(main.main(sys.argv[1:]))
"""


def test_a_disk_that_fills_up_costs_no_checkpoint(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny-dvae")
    said = run_apart(copy.root, [sys.executable, "-c", FULL_DISK, TRAIN])
    assert said.status == 1
    errors = [line for line in said.err.splitlines() if not line.startswith(PROGRESS)]
    assert errors == said.err.splitlines()[-1:]
    assert errors[0].startswith("error: cannot save step 10")
    assert "step 5 is still there" in errors[0]
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


class TestGoingOn:
    """With a finished run's folder, or a copy of it."""

    def test_another_precision_is_refused_and_the_same_one_named(self, tiny: Tiny) -> None:
        held = json.loads((tiny.run / "config.json").read_text())["hardware"]
        flag = "--config.hardware.precision"
        said = run_main(tiny.root, TRAIN, f"{flag}=bfloat16")
        assert said.status == 1
        assert f"trained in {held['precision']} on hardware row {held['row']}" in said.line
        assert "has bfloat16" in said.line
        assert f"{flag}={held['precision']}" in said.line
        assert f"--config=FILE:{held['row']}" in said.line

    def test_the_rest_of_the_hardware_is_free(self, tiny: Tiny) -> None:
        held = json.loads((tiny.run / "config.json").read_text())["hardware"]
        flags = {"precision": held["precision"], "scan": "on", "remat": "on", "accumulate": 2}
        flags |= {"attention": "fused", "tokenizer_pieces": 2}
        settings = [f"--config.hardware.{key}={value}" for key, value in flags.items()]
        said = run_main(tiny.root, f"{TRAIN}:gpu-1", *settings)
        assert said.status == 0, said.err
        assert "nothing to do" in said.line

    def test_other_data_are_noticed(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        copy = tiny.copy(tmp_path, "tiny")
        shutil.rmtree(copy.root / "data")
        assert prepare_tiny(copy.root, without=1).status == 0
        said = run_main(copy.root, TRAIN)
        assert said.status == 1
        assert "runs/tiny was trained on data/tiny#train (" in said.line
        assert "bring the data back, or choose another --workdir" in said.line

    def test_another_tokenizer_is_noticed(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        copy = tiny.copy(tmp_path, "tiny")
        file = copy.run / "tokenizer.json"
        text = file.read_text(encoding="utf-8")
        assert text.count('"over"') == 1
        file.write_text(text.replace('"over"', '"oveR"'), encoding="utf-8")
        said = run_main(copy.root, TRAIN)
        assert said.status == 1
        assert "tokenizer.json is not the one" in said.line
        file.unlink()  # one of the remedies
        assert run_main(copy.root, TRAIN).status == 0
        assert file.read_text(encoding="utf-8") == text


def test_evaluation_gives_the_numbers_of_the_loop(tiny: Tiny) -> None:
    rows = logging.read(tiny.run / "metrics.jsonl")
    logged = [row for row in rows if "recall/val/rsum" in row][-1]
    assert logged["step"] == 40
    (result,) = json.loads((tiny.run / "results.json").read_text())["results"]
    for way in ("image_to_text", "text_to_image"):
        for key in ("r1", "r5", "r10", "median_rank"):
            assert float(f"{result[way][key]:.9g}") == logged[f"recall/val/{way}/{key}"]
    assert float(f"{result['rsum']:.9g}") == logged["recall/val/rsum"]
    # Equal numbers say something only where they are not those of towers that learned nothing.
    recalls = [result[way]["r1"] for way in ("image_to_text", "text_to_image")]
    assert np.mean(recalls) > 3 * 100 / 16


def test_contrastive_alone_trains_without_a_tokenizer(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path)
    said = run_main(copy.root, f"{TRAIN}:contrastive", "--config.duration=4 steps")
    assert said.status == 0, said.err
    evaluated: Said = run_evaluate(copy.root, "--workdir=runs/tiny-contrastive")
    assert evaluated.status == 0, evaluated.err
    assert "masked" not in evaluated.err


def test_what_a_checkpoint_covers_is_logged_before_it(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    """Else a kill right after it loses the line for good. With sets and sources named alike."""
    copy = tiny.copy(tmp_path)
    shutil.copytree(copy.root / "data" / "tiny", copy.root / "data" / "more")
    log, logged, save = copy.root / "run" / "metrics.jsonl", {}, checkpoint.Saver.save

    def looked_at(saver: checkpoint.Saver, step: int, *rest, **options):
        logged[step] = [row["step"] for row in logging.read(log) if "loss" in row]
        return save(saver, step, *rest, **options)

    every = [f"--config.{name}_every={n} steps" for name, n in (("log", 1), ("checkpoint", 2))]
    data = ["--config.data.train=data/tiny#train,data/tiny#val"]
    data += ["--config.data.eval=data/tiny#val,data/more#val"]
    with mock.patch.object(checkpoint.Saver, "save", looked_at):
        flags = ["--workdir=run", "--config.duration=4 steps", *every, *data]
        said = run_main(copy.root, f"{TRAIN}:contrastive", *flags)
    assert said.status == 0, said.err
    assert logged == {2: [1, 2], 4: [1, 2, 3, 4]}
    names = {key for row in logging.read(log) for key in row}
    assert names >= {"kept/tiny#train", "kept/tiny#val"}
    assert names >= {"recall/tiny#val/rsum", "recall/more#val/rsum"}


def test_a_run_that_breaks_fails_although_it_logs_at_its_end_alone(
    tiny: Tiny, tmp_path: pathlib.Path
) -> None:
    copy = tiny.copy(tmp_path)
    breaking = [f"--config.optimizer.{key}=1e6" for key in ("learning_rate", "weight_decay")]
    flags = ["--config.duration=12 steps", "--config.log_every=100%", *breaking]
    said = run_main(copy.root, f"{TRAIN}:contrastive", *flags)
    assert said.status == 1
    assert "had gradients that are not finite" in said.err.splitlines()[-1]
