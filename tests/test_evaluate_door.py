# SPDX-License-Identifier: Apache-2.0
"""The evaluation door a second time, and what it does not write over."""

import json
import pathlib

import numpy as np
import pytest
from doors import Said, in_two_processes, run_evaluate
from tiny_world import Tiny

from cots_jax.errors import UserError
from cots_jax.pretrained import Pretrained

RUN = "--workdir=runs/tiny"
GIVEN = ["--image_embeddings=i.npy", "--text_embeddings=t.npy", "--text_image=m.npy"]


def files(folder: pathlib.Path) -> dict[str, int]:
    """When each file of an evaluation was last written."""
    return {name: (folder / name).stat().st_mtime_ns for name in ("results.json", "report.html")}


class TestASecondTime:
    def test_it_says_what_is_there(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        copy = tiny.copy(tmp_path, "tiny")
        before = files(copy.run)
        said = run_evaluate(copy.root, RUN)
        assert said.status == 0, said.err
        assert "already evaluated: runs/tiny at step 40" in said.err
        assert said.out == tiny.evaluated.out
        assert files(copy.run) == before

    @pytest.mark.parametrize("flag", ["--again", "--data=data/tiny#train"])
    def test_it_does_what_it_is_asked_for(
        self, tiny: Tiny, tmp_path: pathlib.Path, flag: str
    ) -> None:
        copy = tiny.copy(tmp_path, "tiny")
        before = files(copy.run)
        said = run_evaluate(copy.root, RUN, flag)
        assert said.status == 0, said.err
        assert "already evaluated" not in said.err
        assert not set(files(copy.run).items()) & set(before.items())

    def test_files_of_others_stay(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        (tmp_path / "report.html").write_text("mine")
        said = run_evaluate(tiny.root, RUN, f"--out={tmp_path}")
        assert said.status == 1
        assert "not ours to replace" in said.line
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_two_processes_evaluate_as_one(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    flags = [RUN, "--data=data/tiny#train,data/tiny#val"]
    alone = run_evaluate(tiny.root, *flags, f"--out={tmp_path / 'alone'}")
    door = ("-m", "cots_jax.evaluate", *flags, f"--out={tmp_path / 'both'}")
    first, second = in_two_processes(tiny.root, *door)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert first.out == alone.out
    assert second.out == ""
    one, two = (
        json.loads((tmp_path / out / "results.json").read_text()) for out in ("alone", "both")
    )
    assert one["results"] == two["results"]
    assert (tmp_path / "both" / "report.html").is_file()


class TestGivenVectors:
    def score(self, folder: pathlib.Path, *flags: str) -> Said:
        for name, array in (("i", np.eye(4)), ("t", np.eye(4)), ("m", np.arange(4))):
            np.save(folder / f"{name}.npy", array.astype(np.int64 if name == "m" else np.float32))
        return run_evaluate(folder, *GIVEN, *flags)

    def test_they_get_a_folder_of_their_own(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "results.json").write_text("mine")
        said = self.score(tmp_path)
        assert said.status == 0, said.err
        assert "results: i_evaluation/results.json" in said.err
        assert (tmp_path / "i_evaluation" / "results.json").is_file()
        assert (tmp_path / "results.json").read_text() == "mine"
        assert self.score(tmp_path).status == 0

    def test_a_published_name_is_for_sets_of_its_size(self, tmp_path: pathlib.Path) -> None:
        said = self.score(tmp_path, "--protocol=flickr30k_1k")
        assert said.status == 1
        assert "is 1,000 images with at least 5 captions each; here are 4 images" in said.line
        assert "flickr30k_1k" in self.score(tmp_path, "--protocol=flickr30k").line

    def test_a_named_folder_is_looked_at_first(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "results.json").write_text("mine")
        said = self.score(tmp_path, "--out=.")
        assert said.status == 1
        assert "not ours to replace" in said.line
        assert (tmp_path / "results.json").read_text() == "mine"


class TestATokenizer:
    def test_evaluating_a_tokenizer(self, tiny: Tiny, tmp_path: pathlib.Path) -> None:
        said = run_evaluate(tiny.root, "--workdir=runs/tiny-dvae", f"--out={tmp_path / 'out'}")
        assert said.status == 0, said.err
        for name in ("reconstruction error", "codebook perplexity", "dead codes"):
            assert f"ok  {name} on val: " in said.err
        page = (tmp_path / "out" / "report.html").read_text()
        assert page.count("data:image/png;base64,") == 3 * 12
        lines = (tiny.root / "runs/tiny-dvae/metrics.jsonl").read_text().splitlines()
        rows = map(json.loads, lines)
        (logged,) = (row for row in rows if row["step"] == 200 and "dvae/val/error" in row)
        levels = json.loads((tmp_path / "out" / "results.json").read_text())["levels"]
        assert levels[0]["value"] == pytest.approx(logged["dvae/val/error"], rel=1e-6)

    def test_a_tokenizer_is_no_retrieval_model(self, tiny: Tiny) -> None:
        with pytest.raises(UserError, match="not a retrieval model"):
            Pretrained.load(tiny.root / "runs" / "tiny-dvae")
