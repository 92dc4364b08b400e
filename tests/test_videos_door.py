# SPDX-License-Identifier: Apache-2.0
"""MSR-VTT through every door: annotation and films, fine-tuning from pictures, evaluation."""

import json
import pathlib

import pytest
from doors import PROJECT, Said, run_evaluate, run_main, run_prepare
from films import write_film
from tiny_world import PATTERNS, Tiny
from video_world import film, write_videos

from cots_jax.data.records import list_splits, read_facts

pytest.importorskip("av", reason="needs the extra cots_jax[video]")

CONFIG = f"--config={PROJECT / 'configs' / 'finetune.py'}:msrvtt"
SMALL = (
    "--config.model=tiny-16",
    "--config.batch=16",
    "--config.duration=60 steps",
    "--config.evaluate_every=50%",
    "--config.checkpoint_every=50%",
    "--config.data.frames=3",
    "--config.data.text_length=8",
    "--config.data.threads=1",
    "--config.method.queue_length=24",
    "--config.optimizer.learning_rate=1e-3",
)


def prepare(root: pathlib.Path) -> Said:
    files = write_videos(root)
    flags = (f"--annotation={files.annotation}", f"--list={files.lists}", "--videos=videos")
    return run_prepare(root, "msrvtt", *flags, "--frames=6", "--out=data/msrvtt")


def results(folder: pathlib.Path) -> dict[str, dict]:
    found = json.loads((folder / "results.json").read_text())["results"]
    return {result["name"]: result for result in found}


@pytest.mark.slow
def test_from_films_to_a_median_rank(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    assert prepare(tmp_path).status == 0
    assert list_splits(tmp_path / "data" / "msrvtt") == ("test_1k_a", "train", "val")
    origin = f"--config.init_from.run={tiny.run}"
    trained = run_main(tmp_path, CONFIG, origin, *SMALL)
    assert trained.status == 0, trained.err
    run = tmp_path / "runs" / "finetune-msrvtt"
    said = run_evaluate(tmp_path, f"--workdir={run}")
    assert said.status == 0, said.err
    assert "3 frames a video" in said.out
    found = results(run)
    protocol = found["test_1k_a"]["protocol"]
    assert (protocol["images"], protocol["texts"], protocol["frames"]) == (16, 16, 3)
    assert protocol["captions_per_image"] == 1
    assert protocol["fine_tuned_on"][0].startswith("data/msrvtt#train")
    # the films show the patterns that the pictures had: chance is a median rank of 8.5, four seeds
    # had 3 to 3.5
    assert found["test_1k_a"]["text_to_image"]["median_rank"] <= 5
    assert found["val"]["protocol"]["captions_per_image"] == 2

    said = run_evaluate(tmp_path, f"--workdir={run}", "--protocol=msrvtt_1k_a", "--out=named")
    assert said.status == 1
    assert "protocol msrvtt_1k_a is 1,000 images" in said.err

    said = run_evaluate(tmp_path, f"--workdir={run}", "--frames=1", "--out=one")
    assert said.status == 0, said.err
    assert results(tmp_path / "one")["val"]["protocol"]["frames"] == 1
    # a run that learned codes from pictures, on more frames than it has seen
    still = (f"--workdir={tiny.run}", "--data=data/msrvtt#test_1k_a", "--frames=2", "--out=still")
    said = run_evaluate(tmp_path, *still)
    assert said.status == 0, said.err
    assert "masked language modelling" in said.err
    assert "masked vision modelling" not in said.err
    pictures = f"--data={tiny.root / 'data' / 'tiny'}#val"
    said = run_evaluate(tmp_path, f"--workdir={run}", pictures, "--out=pictures")
    assert said.status == 0, said.err
    assert "frames" not in results(tmp_path / "pictures")["val"]["protocol"]


def test_what_cannot_be_trained_on_is_one_line(tmp_path: pathlib.Path) -> None:
    flags = (CONFIG, *SMALL, "--config.method.weight_mvm=1")
    assert "set config.method.weight_mvm=0" in run_main(tmp_path, *flags).line
    said = run_main(tmp_path, CONFIG, *SMALL, "--config.init_from.run=none")
    assert "python -m cots_jax.prepare msrvtt --annotation=" in said.line


@pytest.mark.slow
def test_the_original_annotation(tmp_path: pathlib.Path, shared_data: pathlib.Path) -> None:
    """All of MSR-VTT's files, and a dozen films in the place of its ten thousand clips."""
    files = shared_data / "msrvtt"
    if not files.is_dir():
        pytest.skip("no annotation of MSR-VTT")
    (tmp_path / "clips").mkdir()
    names = list(PATTERNS)
    ids = ["video0", "video1", "video2", "video6513", "video6514", "video9770", "video9771"]
    for id, above in zip(ids, names):
        write_film(tmp_path / "clips" / f"{id}.mp4", film(above, names[0]))
    annotation = f"{files / 'train_val_annotation.zip'},{files / 'test_videodatainfo.json.zip'}"
    lists = f"{files / 'MSRVTT_train.9k.csv'},{files / 'MSRVTT_JSFUSION_test.csv'}"
    flags = (f"--annotation={annotation}", f"--list={lists}", "--videos=clips", "--out=out")
    assert run_prepare(tmp_path, "msrvtt", *flags).status == 0
    facts = read_facts(tmp_path / "out")
    counts = {name: (s["records"], s["pairs"]) for name, s in facts["splits"].items()}
    assert counts == {"test_1k_a": (2, 2), "train": (3, 60), "val": (2, 40)}
    assert facts["drops"] == {"captions_not_listed": 1000, "video_missing": 10_000 - len(ids)}
