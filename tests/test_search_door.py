# SPDX-License-Identifier: Apache-2.0
"""The search door over the small world: index, query, and what it says where it cannot."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from doors import Said, run_search
from films import write_film
from PIL import Image
from tiny_world import Tiny

from cots_jax import Index, Pretrained
from cots_jax.collection.changes import create, put
from cots_jax.data.records import open_split
from cots_jax.errors import UserError
from cots_jax.retrieval.index_files import Row

RUN, PICTURES = "--model=runs/tiny", "--images=pictures"


@pytest.fixture(scope="module")
def out(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An index of the 64 original pictures."""
    folder = tmp_path_factory.mktemp("search") / "index"
    said = run_search(tiny.root, "index", RUN, PICTURES, f"--out={folder}")
    assert (said.status, said.out) == (0, ""), said.err
    assert "64 pictures; embedded 64, dropped 0; nothing was skipped" in said.err
    return folder


def query(tiny: Tiny, out: pathlib.Path, *flags: str) -> Said:
    return run_search(tiny.root, "query", f"--index={out}", *flags)


def hits(tiny: Tiny, out: pathlib.Path, *flags: str) -> list[dict[str, object]]:
    said = query(tiny, out, *flags, "--json")
    assert said.status == 0, said.err
    return json.loads(said.out)["hits"]


def test_recall_is_what_evaluation_says(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    """Over a split, by its captions; ties count against an evaluation only."""
    said = run_search(tiny.root, "index", RUN, "--images=data/tiny#val", f"--out={tmp_path / 'i'}")
    assert said.status == 0, said.err
    index, model = Index.open(tmp_path / "i"), Pretrained.load(tiny.run)
    with open_split(tiny.root / "data" / "tiny", "val") as split:
        records = [split.record(row) for row in range(len(split))]
    asked = [(caption, record.id) for record in records for caption in record.captions]
    found = index.search(model.encode_texts([caption for caption, _ in asked]), 10)
    names = [[row.name for row in index.rows(rows)] for rows in found.index]
    (result,) = json.loads((tiny.run / "results.json").read_text())["results"]
    for k in (1, 5, 10):
        right = [id in answers[:k] for answers, (_, id) in zip(names, asked, strict=True)]
        assert 100 * np.mean(right) == pytest.approx(result["text_to_image"][f"r{k}"], abs=0.1)
    assert [row.captions for row in index.rows(range(len(index)))] == [r.captions for r in records]
    assert (tmp_path / "i" / "text_emb" / "text_emb_0.npy").is_file()


def test_a_picture_finds_itself(tiny: Tiny, out: pathlib.Path) -> None:
    wanted = tiny.root / "pictures" / "bars-steps.png"
    first, *others = hits(tiny, out, f"--image={wanted}", "--top=3")
    assert first["path"] == str(wanted)
    assert first["score"] == pytest.approx(1, abs=1e-4)
    assert len(others) == 2


def test_text_picture_and_minus(tiny: Tiny, out: pathlib.Path) -> None:
    model, index = Pretrained.load(tiny.run), Index.open(out)
    bars, steps = model.encode_texts(["bars over ring", "steps over ring"])
    picture = model.encode_images([tiny.root / "pictures" / "ring-left.png"])[0]
    both = 2 * bars - steps
    expected = both / np.linalg.norm(both) + picture - steps
    scores = index.search((expected / np.linalg.norm(expected))[None], 64).score[0]
    flags = ["--text=2*bars over ring - steps over ring", "--image=pictures/ring-left.png"]
    found = hits(tiny, out, *flags, "--minus=steps over ring", "--top=64")
    np.testing.assert_allclose([hit["score"] for hit in found], scores, atol=1e-4)
    assert "looked for 2 × 'bars over ring' − 'steps over ring'" in query(tiny, out, *flags).err


def test_a_table(tiny: Tiny, out: pathlib.Path) -> None:
    said = query(tiny, out, "--text=bars over ring", "--top=4")
    lines = said.out.splitlines()
    assert (said.status, said.err, len(lines)) == (0, "", 4)
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert all(line.endswith(".png") for line in lines)


def test_a_second_time_nothing_is_loaded(
    tiny: Tiny, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pretrained, "load", None)
    said = run_search(tiny.root, "index", RUN, PICTURES, f"--out={out}", "--json")
    assert "nothing changed" in said.err
    assert json.loads(said.out)["count"] == 64


def test_what_cannot_be_answered(tiny: Tiny, out: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert "there is no index in none" in query(tiny, pathlib.Path("none"), "--text=a").line
    assert "nothing to look for" in query(tiny, out).line
    assert "nothing to look for" in query(tiny, out, "--minus=a").line
    assert "--minus has no text" in query(tiny, out, "--text=a", "--minus= ").line
    assert "--top=0: ask for 1" in query(tiny, out, "--text=a", "--top=0").line
    assert "there is no picture none.png" in query(tiny, out, "--image=none.png").line
    assert "take each other away" in query(tiny, out, "--text=a - a").line
    assert "the model knows no word of 'зебра'" in query(tiny, out, "--text=зебра").line
    assert "no training folder none" in query(tiny, out, "--text=a", "--model=none").line
    said = run_search(tiny.root, "index", RUN, "--images=data/tiny", f"--out={tmp_path / 'i'}")
    assert "name one of its splits, --images=data/tiny#train, --images=data/tiny#val" in said.line
    assert run_search(tiny.root, "ask").status == 2


def test_the_model_is_found_beside_a_moved_index(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path / "here", "tiny")
    shutil.copytree(tiny.root / "pictures", copy.root / "pictures")
    assert run_search(copy.root, "index", RUN, PICTURES, "--out=i").status == 0
    moved = copy.root.rename(tmp_path / "there")
    assert len(hits(tiny, moved / "i", "--text=bars over ring")) == 10
    (moved / "runs").rename(tmp_path / "runs")
    said = query(tiny, moved / "i", "--text=bars over ring")
    assert "which is not there: name it with --model=WORKDIR" in said.line
    assert query(tiny, moved / "i", "--text=a", f"--model={tmp_path / 'runs' / 'tiny'}").status == 0


def test_another_model_is_refused(tiny: Tiny, out: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tiny.copy(tmp_path, "tiny")
    newest = max((int(p.name) for p in (copy.run / "checkpoints").iterdir()), default=0)
    shutil.rmtree(copy.run / "best", ignore_errors=True)
    shutil.rmtree(copy.run / "checkpoints" / str(newest))
    said = query(tiny, out, "--text=a", f"--model={copy.run}")
    assert "is another model now" in said.line
    said = run_search(tiny.root, "index", f"--model={copy.run}", PICTURES, f"--out={out}")
    assert "whose vectors do not mix: choose another --out" in said.line


def test_a_condition(tiny: Tiny, out: pathlib.Path) -> None:
    everything = hits(tiny, out, "--text=bars over ring", "--top=64")
    found = hits(tiny, out, "--text=bars over ring", "--top=64", '--where=path has "RING"')
    assert found == [hit for hit in everything if "ring" in str(hit["path"]).rpartition("/")[2]]
    assert "lacks text in quotation marks" in query(tiny, out, "--text=a", "--where=path = a").line


def test_an_engine(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("usearch", reason="needs the extra cots_jax[search]")
    out, flags = tmp_path / "i", [RUN, "--images=data/tiny#val", f"--out={tmp_path / 'i'}"]
    assert run_search(tiny.root, "index", *flags).status == 0
    exact = hits(tiny, out, "--text=bars over ring")
    said = run_search(tiny.root, "index", *flags, "--engine=usearch")
    assert "nothing changed" in said.err
    assert "usearch finds 100.0 % of the exact best 10 of" in said.err
    found = hits(tiny, out, "--text=bars over ring")
    assert [hit["path"] for hit in found] == [hit["path"] for hit in exact]
    assert hits(tiny, out, "--text=bars over ring", "--engine=exact") == exact
    assert run_search(tiny.root, "index", *flags, "--engine=exact").status == 0
    assert "no engine usearch" in query(tiny, out, "--text=a", "--engine=usearch").line


def test_two_tasks(tiny: Tiny, out: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = [RUN, PICTURES, f"--out={tmp_path / 'i'}"]
    for task in ("1/2", "2/2"):
        said = run_search(tiny.root, "index", *flags, f"--task={task}", "--json")
        assert 0 < json.loads(said.out)["count"] < 64
    assert "joined 2 tasks, embedded 0" in run_search(tiny.root, "index", *flags).err
    asked = ("--text=bars over ring", "--top=64")
    found, wanted = hits(tiny, tmp_path / "i", *asked), hits(tiny, out, *asked)
    assert {hit["path"]: hit["score"] for hit in found} == {
        hit["path"]: pytest.approx(hit["score"], abs=1e-5) for hit in wanted
    }


def test_an_index_that_a_program_fills(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    model, names = Pretrained.load(tiny.run), ["bars-steps.png", "ring-left.png"]
    create(tmp_path / "i", model)
    with pytest.raises(UserError, match="is an index already"):
        create(tmp_path / "i", model)
    vectors = model.encode_images([tiny.root / "pictures" / name for name in names])
    put(tmp_path / "i", [Row(name, ("said",)) for name in names], vectors)
    first, _ = hits(tiny, tmp_path / "i", f"--image={tiny.root / 'pictures' / names[1]}")
    assert first == {"path": names[1], "score": pytest.approx(1, abs=1e-4), "caption": "said"}


def test_a_value_that_a_flag_cannot_have(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    asked = run_search(tiny.root, "query", f"--index={tmp_path}", "--text=a", "--top=0")
    assert (asked.status, asked.err) == (2, "error: --top=0: ask for 1 picture or more\n")
    served = run_search(tiny.root, "serve", f"--index={tmp_path}", "--alike=nan")
    assert served.status == 2
    assert "--alike=nan" in served.err


def test_videos(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    """A film of two still pictures is found by either, at its time."""
    pytest.importorskip("av", reason="needs the extra cots_jax[video]")
    stills = [tiny.root / "pictures" / f"{name}.png" for name in ("bars-steps", "ring-left")]
    frames = [np.asarray(Image.open(still).convert("RGB").resize((64, 64))) for still in stills]
    (tmp_path / "clips").mkdir()
    write_film(tmp_path / "clips" / "film.mp4", [frame for frame in frames for _ in range(25)])
    flags = [f"--videos={tmp_path / 'clips'}", "--seconds=1", f"--out={tmp_path / 'i'}"]
    assert run_search(tiny.root, "index", RUN, *flags).status == 0
    first, second = hits(tiny, tmp_path / "i", f"--image={stills[1]}")
    assert first["path"] == str(tmp_path / "clips" / "film.mp4")
    assert (first["start"], first["end"], second["start"]) == (1.0, 2.0, 0.0)
    assert first["score"] > max(0.8, second["score"])
    assert "film.mp4#t=1,2" in query(tiny, tmp_path / "i", f"--image={stills[1]}").out
    assert run_search(tiny.root, "index", RUN, PICTURES, *flags).status == 2
