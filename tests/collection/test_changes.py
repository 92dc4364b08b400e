# SPDX-License-Identifier: Apache-2.0
"""An index that a program fills, and what is left of it when the program is killed."""

import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from doors import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_index import Stub, build, save_picture

from cots_jax.collection import changes
from cots_jax.collection.changes import KIND, delete, put
from cots_jax.errors import UserError
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import (
    IMAGES,
    Facts,
    Row,
    Storage,
    part_file,
    part_numbers,
    write_facts,
)

WIDTH = 6


def empty(folder: pathlib.Path) -> pathlib.Path:
    """An index without rows, as `create` makes it of a model."""
    folder.mkdir()
    model = {"path": "run", "relative": "run", "step": 1, "checkpoint": "a"}
    facts = Facts({"kind": KIND, "path": ""}, model, {"size": 8}, WIDTH, Storage.FLOAT32, {}, ())
    write_facts(folder, facts)
    return folder


def vectors(seeds: list[int]) -> np.ndarray:
    drawn = [np.random.default_rng(seed).standard_normal(WIDTH) for seed in seeds]
    return np.array([one / np.linalg.norm(one) for one in drawn], np.float32).reshape(-1, WIDTH)


def put_seeds(folder: pathlib.Path, seeds: dict[str, int]) -> None:
    rows = [Row(name, (f"caption {seed}",)) for name, seed in seeds.items()]
    put(folder, rows, vectors(list(seeds.values())))


def contents(folder: pathlib.Path) -> dict[str, tuple[str, bytes]]:
    """Caption and vector by name; each name once."""
    index = Index.open(folder)
    places = np.arange(len(index), dtype=np.int32)
    rows = index.rows(places)
    found = index.vectors(places)
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: (row.captions[0], v.tobytes()) for row, v in zip(rows, found, strict=True)}


def expected(seeds: dict[str, int]) -> dict[str, tuple[str, bytes]]:
    return {name: (f"caption {seed}", vectors([seed]).tobytes()) for name, seed in seeds.items()}


names = st.sampled_from([f"{letter}.jpg" for letter in "abcdefgh"])
steps = st.one_of(
    st.dictionaries(names, st.integers(0, 99), min_size=1, max_size=5), st.sets(names, max_size=4)
)


@settings(max_examples=15)
@given(st.lists(steps, min_size=1, max_size=6))
def test_any_changes(asked: list[dict[str, int] | set[str]]) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "PART_ROWS", 3)
        folder, seeds = empty(pathlib.Path(root) / "index"), {}
        for one in asked:
            if isinstance(one, dict):
                put_seeds(folder, one)
                seeds |= one
            else:
                delete(folder, one)
                seeds = {name: seed for name, seed in seeds.items() if name not in one}
            assert contents(folder) == expected(seeds)
        assert part_numbers(folder) == sorted(
            part.number for part in Index.open(folder).facts.parts
        )


def test_it_can_be_searched(tmp_path: pathlib.Path) -> None:
    folder = empty(tmp_path / "index")
    assert Index.open(folder).search(vectors([1]), 3).index.shape == (1, 0)
    assert Index.open(folder).where('path has "a" or start > 1').shape == (0,)
    put_seeds(folder, {"a.jpg": 1, "b.jpg": 2})
    index = Index.open(folder)
    found = index.search(vectors([2]), 1, index.where('path starts "b"'))
    assert index.rows(found.index[0])[0].name == "b.jpg"


def test_refusals(tmp_path: pathlib.Path) -> None:
    folder = empty(tmp_path / "index")
    with pytest.raises(UserError, match="2 vectors, 1 rows and 1 names"):
        put(folder, [Row("a")], vectors([1, 2]))
    with pytest.raises(UserError, match="not of length 1"):
        put(folder, [Row("a")], 2 * vectors([1]))
    with pytest.raises(UserError, match=r"4 wide and .* is 6 wide"):
        put(folder, [Row("a")], np.eye(4, dtype=np.float32)[:1])
    with pytest.raises(UserError, match="there is no index"):
        delete(tmp_path / "none", ["a"])
    save_picture(tmp_path / "photos" / "a.png", 1)
    build(tmp_path / "photos", tmp_path / "other", Stub())
    with pytest.raises(UserError, match=r"follows .*photos: change that"):
        delete(tmp_path / "other", ["a.png"])
    with pytest.raises(UserError, match="is the index of"):
        build(tmp_path / "photos", folder, Stub({"step": 1, "checkpoint": "a"}))
    assert len(Index.open(folder)) == 0


def test_damaged_vectors_are_not_copied(tmp_path: pathlib.Path) -> None:
    folder = empty(tmp_path / "index")
    put_seeds(folder, {"a.jpg": 1, "b.jpg": 2})
    path = part_file(folder, IMAGES, 0)
    harmed = bytearray(path.read_bytes())
    harmed[-1] ^= 1
    path.write_bytes(harmed)
    for change in (lambda: put_seeds(folder, {"c.jpg": 3}), lambda: delete(folder, ["a.jpg"])):
        with pytest.raises(UserError, match=r"img_emb_0\.npy has changed .* into a new index"):
            change()
    with pytest.raises(UserError, match=r"img_emb_0\.npy has changed"):
        contents(folder)
    put_seeds(folder, {"a.jpg": 1, "b.jpg": 2})  # nothing of it is copied
    assert contents(folder) == expected({"a.jpg": 1, "b.jpg": 2})


PROGRAM = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_changes import put_seeds, delete
from cots_jax.collection import changes
changes.PART_ROWS = 8
folder, first = Path(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + 10000):
    put_seeds(folder, {f"{number}.jpg": number, "changing.jpg": number})
    print("put", number, flush=True)
    if number % 3 == 0:
        delete(folder, [f"{number}.jpg"])
        print("deleted", number, flush=True)
"""


def killed(folder: pathlib.Path, first: int, seconds: float) -> list[str]:
    """What a program says it has done until it is killed with -9, some time after it began."""
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        str(pathlib.Path(__file__).parent),
        str(folder),
        str(first),
    ]
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        said = [running.stdout.readline()]
        time.sleep(seconds)
        running.kill()
        said += running.stdout.readlines()
        assert running.wait() == -9
    return [line.strip() for line in said if line.endswith("\n")]


def check_what_was_acknowledged(folder: pathlib.Path, said: list[str]) -> None:
    """Nothing that was said is lost; of what was under way, all is there or nothing."""
    assert said[0].startswith("put")
    found = contents(folder)
    done = [int(line.split()[1]) for line in said if line.startswith("put")]
    deleted = {int(line.split()[1]) for line in said if line.startswith("deleted")}
    under_way = done[-1] + 1 if done[-1] % 3 or done[-1] in deleted else done[-1]
    for number in done:
        if number != under_way:
            there = number not in deleted
            assert (f"{number}.jpg" in found) == there, number
    wanted = {number for number in done if number not in deleted} - {under_way}
    for number in wanted:
        assert found[f"{number}.jpg"] == expected({"x": number})["x"]
    latest = done[-1] + 1 if f"{done[-1] + 1}.jpg" in found else done[-1]
    assert found["changing.jpg"] == expected({"x": latest})["x"]


def test_a_real_kill(tmp_path: pathlib.Path) -> None:
    folder = empty(tmp_path / "index")
    check_what_was_acknowledged(folder, killed(folder, 0, 0.3))
    put_seeds(folder, {"after.jpg": 5})  # and it goes on
    assert "after.jpg" in contents(folder)


@pytest.mark.slow
def test_many_real_kills(tmp_path: pathlib.Path) -> None:
    rng = random.Random(0)
    folder, first = empty(tmp_path / "index"), 0
    for _ in range(6):
        said = killed(folder, first, rng.uniform(0, 0.6))
        check_what_was_acknowledged(folder, said)
        first += 10000
