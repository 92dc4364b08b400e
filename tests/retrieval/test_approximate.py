# SPDX-License-Identifier: Apache-2.0
"""Engines beside an index: what they find, how they follow it, and when they are not asked."""

import contextlib
import importlib
import pathlib
import sys
from collections.abc import Generator

import numpy as np
import pytest
from small_index import write

from cots_jax.errors import UserError
from cots_jax.retrieval import approximate
from cots_jax.retrieval.approximate import Approximate, Wanted, follow, forget, searching
from cots_jax.retrieval.engine import NONE, Copy, Engine, EngineKind, read_copy
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import Storage

WIDTH = 16
PACKAGES = {EngineKind.USEARCH: ["usearch"], EngineKind.MILVUS: ["pymilvus", "milvus_lite"]}


@pytest.fixture(params=list(PACKAGES), ids=str)
def wanted(request: pytest.FixtureRequest) -> Wanted:
    """Each engine that is installed, in the index's own folder."""
    for package in PACKAGES[request.param]:
        pytest.importorskip(package, reason=f"needs {package}")
    return Wanted(request.param)


def unit(seed: int, rows: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


TEXTS = unit(99, 20)


def recall(index: Index, found: np.ndarray) -> float:
    exact = index.search(TEXTS, 10).index
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])


def test_an_engine_finds_what_exact_search_finds(tmp_path: pathlib.Path, wanted: Wanted) -> None:
    index = write(tmp_path, [unit(0, 300), unit(1, 5), unit(2, 200)], Storage.FLOAT16)
    copy = follow(index, wanted, lambda: TEXTS)
    assert copy is not None
    assert copy.recall >= approximate.RECALL
    assert (copy.texts, copy.parts.keys()) == (20, {0, 1, 2})
    with searching(index) as engine:
        assert isinstance(engine, Approximate)
        found = engine.search(TEXTS, 10)
        assert recall(index, found.index) == pytest.approx(copy.recall)
        # scores, their order and that of equal ones are those of the stored vectors
        scores = np.einsum(
            "qe,qke->qk", TEXTS, index.vectors(found.index.ravel()).reshape(20, 10, -1)
        )
        np.testing.assert_allclose(found.score, scores, atol=1e-6)
        assert (np.diff(found.score) <= 0).all()
        # a mask, or more than there are: exact
        keep = np.arange(len(index)) % 20 == 3
        np.testing.assert_array_equal(
            engine.search(TEXTS, 10, keep).index, index.search(TEXTS, 10, keep).index
        )
        assert sorted(engine.search(TEXTS[:1], 9999).index[0]) == list(range(505))
        with pytest.raises(UserError, match=r"5 wide and .* 16"):
            engine.search(TEXTS[:, :5], 3)
    assert follow(index, wanted, lambda: TEXTS) is None  # nothing to be done
    with searching(index, EngineKind.EXACT) as engine:
        assert engine is index


class Forgetful(Engine):
    """Finds the first rows of the index, whatever is asked, and to every second query one less."""

    place = "x"

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        keys = np.tile(np.arange(k), (len(queries), 1))
        keys[::2, -1] = NONE
        return keys


def test_what_an_engine_misses_is_not_measured_as_found(tmp_path: pathlib.Path) -> None:
    index = write(tmp_path, [unit(0, 100)])
    copy = Copy(EngineKind.USEARCH, "", "x", {0: "digest"})
    measured = approximate._measured(index, Forgetful(), copy, TEXTS)
    exact = index.search(TEXTS, 10).index
    kept = np.where(np.arange(20) % 2, 10, 9)[:, None]
    assert measured.recall == pytest.approx((exact < kept).sum() / 200)
    found = Approximate(index, Forgetful(), measured).search(TEXTS, 10)
    np.testing.assert_array_equal(found.index[::2], exact[::2])  # looked for exactly
    assert (np.sort(found.index[1::2]) == np.arange(10)).all()


def test_it_follows_the_index(tmp_path: pathlib.Path, wanted: Wanted) -> None:
    parts = [unit(seed, 100) for seed in range(5)]
    follow(write(tmp_path, parts), wanted, lambda: TEXTS)
    parts[3] = unit(33, 80)  # one of five is another now, and the last is gone
    index = write(tmp_path, parts[:4])
    with searching(index) as engine:
        assert engine is index  # the copy is out of date
    follow(index, wanted, lambda: TEXTS)
    with searching(index) as engine:
        assert isinstance(engine, Approximate)
        assert recall(index, engine.search(TEXTS, 10).index) >= approximate.RECALL
    forget(tmp_path)
    with searching(index) as engine:
        assert engine is index


def test_a_killed_run_is_made_up_for(
    tmp_path: pathlib.Path, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [unit(seed, 100) for seed in range(5)]
    follow(write(tmp_path, parts), wanted, lambda: TEXTS)
    index = write(tmp_path, [*parts, unit(7, 100)])
    with monkeypatch.context() as patch:
        patch.setattr(approximate, "_measured", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            follow(index, wanted, lambda: TEXTS)
    copy = read_copy(tmp_path)
    assert copy is not None
    assert copy.unsure == (5,)
    with searching(index) as engine:
        assert engine is index
    index = write(tmp_path, parts)  # and the part that it may have is gone again
    follow(index, wanted, lambda: TEXTS)
    with searching(index) as engine:
        assert recall(index, engine.search(TEXTS, 10).index) >= approximate.RECALL


def test_what_is_wrong_is_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch", reason="needs usearch")
    index = write(tmp_path, [unit(0, 50)])
    with (
        pytest.raises(UserError, match="no engine usearch: make it with"),
        searching(index, EngineKind.USEARCH),
    ):
        pass
    follow(index, Wanted(EngineKind.USEARCH), lambda: TEXTS)
    (graph,) = (tmp_path / "usearch").iterdir()
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(UserError, match=r"is not as it was written: remove"), searching(index):
        pass
    (tmp_path / "engine.json").write_text("{")
    with pytest.raises(UserError, match=r"engine\.json cannot be read"), searching(index):
        pass
    forget(tmp_path)
    monkeypatch.setattr(importlib, "import_module", _no_module)
    for kind in PACKAGES:
        with pytest.raises(UserError, match=rf"--engine={kind} needs the package"):
            follow(index, Wanted(kind), lambda: TEXTS)


def test_a_graph_that_is_taken_away_meanwhile(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch", reason="needs usearch")
    index, opened = write(tmp_path, [unit(0, 50)]), approximate._open
    follow(index, Wanted(EngineKind.USEARCH), lambda: TEXTS)

    def late(index: Index, copy: Copy) -> Engine:
        forget(tmp_path)
        return opened(index, copy)

    monkeypatch.setattr(approximate, "_open", late)
    with searching(index) as engine:
        assert engine is index


def _no_module(name: str) -> None:
    raise ImportError(name)


@contextlib.contextmanager
def milvus_server(folder: pathlib.Path) -> Generator[str]:
    """A Milvus of its own."""
    server = importlib.import_module("milvus").MilvusServer()
    server.set_base_dir(str(folder))
    try:
        server.start()
        yield f"http://127.0.0.1:{server.listen_port}"
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed")  # of the server's package
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_milvus_server(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pymilvus", reason="needs pymilvus")
    pytest.importorskip("milvus", reason="needs a server: pip install milvus==2.3.5 (81 MB)")
    with milvus_server(tmp_path / "server") as uri:
        wanted = Wanted(EngineKind.MILVUS, uri)
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
        test_an_engine_finds_what_exact_search_finds(tmp_path / "one", wanted)
        test_it_follows_the_index(tmp_path / "two", wanted)
    with (
        pytest.raises(UserError, match=f"Milvus at {uri} says"),
        searching(Index.open(tmp_path / "one")),
    ):
        pass
