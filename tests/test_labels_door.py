# SPDX-License-Identifier: Apache-2.0
"""Classification by words and by a probe through the evaluate door, and leakage on the way."""

import json

import numpy as np
import pytest
from doors import Said, run_evaluate, run_prepare
from tiny_world import PATTERNS, Tiny, draw

from cots_jax.pretrained import Pretrained
from cots_jax.retrieval import zero_shot
from cots_jax.retrieval.classes import read_classes, read_prompts
from cots_jax.retrieval.embed import encode_texts
from cots_jax.retrieval.zero_shot import class_vectors

RUN = "--workdir=runs/tiny"
HELD_OUT = ("bars", "ring")  # what lies below in the pictures of val
WORDS = [*PATTERNS, "unicorn"]


@pytest.fixture(scope="module")
def labelled(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny world with `data/above`, whose classes are the upper patterns, and two lists."""
    copy = tiny.copy(tmp_path_factory.mktemp("labelled"), "tiny", "tiny-dvae")
    for above in PATTERNS:
        for below in PATTERNS:
            folder = copy.root / "folders" / ("val" if below in HELD_OUT else "train") / above
            folder.mkdir(parents=True, exist_ok=True)
            draw(above, below).save(folder / f"{below}.png")
    said = run_prepare(copy.root, "classes", "--source=folders", "--out=data/above")
    assert said.status == 0, said.err
    (copy.root / "classes.txt").write_text("\n".join(WORDS).replace("roof", "roof\troof, roof"))
    (copy.root / "prompts.txt").write_text("{}\n{} over bars\n")
    return copy


def classify(labelled: Tiny, out: str, *flags: str) -> Said:
    return run_evaluate(labelled.root, RUN, "--data=data/above#val", f"--out={out}", *flags)


ASKED = ("--classes=classes.txt", "--prompts=prompts.txt", "--probe=data/above#train")


@pytest.fixture(scope="module")
def evaluated(labelled: Tiny) -> Said:
    return classify(labelled, "out", *ASKED)


@pytest.fixture(scope="module")
def results(labelled: Tiny, evaluated: Said) -> dict:
    assert evaluated.status == 0, evaluated.err
    return json.loads((labelled.root / "out" / "results.json").read_text())


def _vectors(labelled: Tiny):
    """The opened run and its class vectors."""
    opened = Pretrained.load(labelled.run)
    classes = read_classes(labelled.root / "classes.txt")
    prompts = read_prompts(labelled.root / "prompts.txt")
    length = opened.config.data.text_length
    args = opened.towers, opened.model, opened.tokenizer, length, classes, prompts
    return opened, class_vectors(*args)


class TestZeroShot:
    def test_class_vectors_are_means_of_unit_features(
        self, labelled: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened, found = _vectors(labelled)
        for number, word in enumerate(WORDS):
            said = [word, f"{word} over bars"]
            text = opened.tokenizer.encode(said, opened.config.data.text_length)
            features = encode_texts(opened.towers, text.ids, text.length, opened.model)
            mean = np.mean(np.asarray(features, np.float64), axis=0)
            expected = mean / np.linalg.norm(mean)
            assert found.vectors[number] == pytest.approx(expected, abs=1e-2)  # bf16 towers
        assert found.cut == 0
        monkeypatch.setattr(zero_shot, "AT_ONCE", 1)
        assert _vectors(labelled)[1].vectors == pytest.approx(found.vectors, abs=1e-2)

    def test_the_row_says_all(self, results: dict) -> None:
        (row,) = results["zero_shot"]
        protocol, method = row["protocol"], row["protocol"]["method"]
        assert (protocol["pictures"], protocol["classes"]) == (16, 9)
        assert (protocol["dataset"], protocol["split"]) == ("data/above", "val")
        assert method["prompts"] == ["{}", "{} over bars"]
        assert len(method["classes_sha256"]) == len(method["prompts_sha256"]) == 64
        assert row["without_pictures"] == ["unicorn"]
        assert [part["pictures"] for part in row["per_class"]] == [2] * 8
        assert row["top1"] <= row["top5"]
        assert row["mean_per_class_recall"] == pytest.approx(row["top1"])  # classes are alike
        ends = row["interval_95"]["top1"]
        assert ends["low"] <= row["top1"] <= ends["high"]

    def test_it_tells_patterns_apart(self, results: dict) -> None:
        assert results["zero_shot"][0]["top5"] > 100 * 5 / 9


class TestProbe:
    def test_the_row_says_all(self, results: dict) -> None:
        (row,) = results["linear_probe"]
        method = row["protocol"]["method"]
        assert method["trained_on"].startswith("data/above#train (")
        assert (method["train_pictures"], method["chosen_on"]) == (48, 5)
        assert method["strength"] in [tried["strength"] for tried in method["tried"]]
        assert len(method["tried"]) == 7
        assert method["pictures_also_in_training"] == 0
        assert row["protocol"]["classes"] == 8


class TestTheRest:
    def test_what_is_printed(self, evaluated: Said) -> None:
        assert "zero-shot " in evaluated.out and "linear probe " in evaluated.out
        assert "1 class without a picture here" in evaluated.out

    def test_a_second_time_says_the_same(self, labelled: Tiny, evaluated: Said) -> None:
        before = (labelled.root / "out" / "results.json").stat().st_mtime_ns
        again = classify(labelled, "out", *ASKED)
        assert again.out == evaluated.out
        assert again.err.splitlines()[1:] == evaluated.err.splitlines()
        assert (labelled.root / "out" / "results.json").stat().st_mtime_ns == before
        as_json = json.loads(classify(labelled, "out", *ASKED, "--json").out)
        assert {"results", "zero_shot", "linear_probe", "breakdown", "notes"} == set(as_json)

    def test_other_lists_are_another_evaluation(self, labelled: Tiny, evaluated: Said) -> None:
        said = classify(labelled, "out2", "--classes=classes.txt")
        assert said.status == 0, said.err
        (labelled.root / "more.txt").write_text("\n".join([*WORDS, "griffin"]))
        said = classify(labelled, "out2", "--classes=more.txt")
        assert "already evaluated" not in said.err
        results = json.loads((labelled.root / "out2" / "results.json").read_text())
        assert results["zero_shot"][0]["protocol"]["classes"] == 10
        assert "linear_probe" not in results

    def test_the_promised_rows_are_as_ever(self, results: dict) -> None:
        (row,) = results["results"]
        assert row["protocol"]["images"] == 16
        assert set(row) == {
            "name", "protocol", "image_to_text", "text_to_image", "rsum", "interval_95",
        }  # fmt: skip
        (parts,) = results["breakdown"]
        assert parts["text_to_image_by_words"][0]["name"] == "1-2"

    def test_pictures_that_were_trained_on_are_said(self, results: dict, evaluated: Said) -> None:
        leakage = results["results"][0]["protocol"]["leakage"]
        assert (leakage["folder"], leakage["split"]) == ("data/tiny", "train")
        assert 0 < leakage["pictures"] < 16
        assert results["zero_shot"][0]["protocol"]["leakage"] == leakage
        lines = [line for line in evaluated.err.splitlines() if line.startswith("LEAKAGE")]
        assert lines == results["notes"]

    def test_the_page_shows_it(self, labelled: Tiny, evaluated: Said) -> None:
        page = (labelled.root / "out" / "report.html").read_text()
        for heading in ("Zero-shot classification", "Linear probe", "Breakdown"):
            assert f"<h2>{heading}</h2>" in page
        assert page.count('<tr class="leak">') == 3
        own = (labelled.run / "report.html").read_text()
        assert '<tr class="leak">' not in own

    def test_the_own_held_out_set_is_clean(self, tiny: Tiny) -> None:
        assert "LEAKAGE" not in tiny.evaluated.err
        results = json.loads((tiny.run / "results.json").read_text())
        assert "leakage" not in results["results"][0]["protocol"]

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["--prompts=prompts.txt"], "--prompts is for the words of --classes"),
            (["--classes=nowhere.txt"], "--classes=nowhere.txt cannot be read"),
            (["--classes=classes.txt", "--prompts=classes.txt"], r"line 1 is 'bars': put {}"),
            (["--classes=prompts.txt"], "16 of 16 pictures of data/above#val have a first caption"),
            (["--probe=data/../data/above#val"], "is evaluated too"),
            (["--probe=data/tiny#train"], "the probe has never seen them"),
            (["--probe=data/tiny#train,data/above#train"], "names 2 splits"),
            (["--probe=data/nowhere#train"], "--probe: there is no folder data/nowhere"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, labelled: Tiny, flags: list[str], words: str) -> None:
        said = classify(labelled, "none", *flags)
        assert said.status == 1
        assert words in said.line
        assert not (labelled.root / "none").exists()

    def test_wrong_use(self, labelled: Tiny) -> None:
        given = ["--image_embeddings=i", "--text_embeddings=t", "--text_image=m"]
        assert run_evaluate(labelled.root, *given, "--probe=a#b").status == 2
        said = run_evaluate(labelled.root, "--workdir=runs/tiny-dvae", "--classes=classes.txt")
        assert "holds an image tokenizer" in said.line
