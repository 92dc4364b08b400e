# SPDX-License-Identifier: Apache-2.0
"""Exact search of a stored index against NumPy."""

import pathlib

import numpy as np
import pytest
from small_index import integers, write

from cots_jax.errors import UserError
from cots_jax.retrieval import index as index_module
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import Storage


def best(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("storage", list(Storage))
@pytest.mark.parametrize(("queries", "k"), [(1, 1), (3, 7), (9, 20), (130, 40)])
def test_equals_a_stable_sort(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, storage: Storage, queries: int, k: int
) -> None:
    monkeypatch.setattr(index_module, "BLOCK", 64)
    monkeypatch.setattr(index_module, "GROUP", 4)
    index_module._scan.clear_cache()  # a program of these shapes may have groups of another size
    parts = [integers(size, size, 6) for size in (50, 3, 64)]
    vectors, query = np.concatenate(parts), integers(queries, queries, 6)
    found = write(tmp_path, parts, storage).search(query, k)
    order = best(query, vectors, k)
    np.testing.assert_array_equal(found.index, order)
    scores = np.take_along_axis(query @ vectors.T, order, axis=1)
    np.testing.assert_array_equal(found.score, scores)
    assert found.score.dtype == np.float32


def test_more_than_there_are(tmp_path: pathlib.Path) -> None:
    vectors, query = integers(0, 5, 4), integers(1, 2, 4)
    found = write(tmp_path, [vectors]).search(query, 1000)
    np.testing.assert_array_equal(found.index, best(query, vectors, 5))


def test_a_mask(tmp_path: pathlib.Path) -> None:
    vectors, query = integers(0, 60, 4), integers(1, 2, 4)
    index = write(tmp_path, [vectors[:40], vectors[40:]])
    keep = np.arange(60) % 7 == 3
    kept = np.flatnonzero(keep)
    found = index.search(query, 5, keep)
    np.testing.assert_array_equal(found.index, kept[best(query, vectors[keep], 5)])
    assert index.search(query, 100, keep).index.shape == (2, len(kept))
    assert index.search(query, 5, np.zeros(60, bool)).index.shape == (2, 0)


def test_vectors_that_do_not_stay_on_the_device(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, query = integers(0, 60, 4), integers(1, 2, 4)
    index = write(tmp_path, [vectors])
    first = index.search(query, 5)
    monkeypatch.setattr(index_module, "RESIDENT", 0)
    np.testing.assert_array_equal(Index.open(tmp_path).search(query, 5).index, first.index)


@pytest.mark.parametrize(("room", "kept"), [(4, np.float32), (2, np.float16), (0, None)])
def test_half_precision_wherever_it_is_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, room: int, kept: type | None
) -> None:
    """On a CPU in float32 where there is room for that: the same scores to the last bit."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 96)).astype(np.float32)
    index = write(tmp_path, [vectors[:200], vectors[200:]], Storage.FLOAT16)
    monkeypatch.setattr(index_module, "RESIDENT", 300 * 96 * room)
    query = rng.standard_normal((3, 96)).astype(np.float32)
    found = index.search(query, 5)
    blocks = index._resident
    assert {block.vectors.dtype for block in blocks or ()} == ({np.dtype(kept)} if kept else set())
    widened = write(tmp_path / "wide", [vectors.astype(np.float16).astype(np.float32)])
    wanted = widened.search(query, 5)
    np.testing.assert_array_equal(found.index, wanted.index)
    np.testing.assert_array_equal(found.score, wanted.score)


def test_equal_vectors_tie_wherever_they_stand(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    row = rng.standard_normal((1, 96)).astype(np.float32)
    monkeypatch.setattr(index_module, "BLOCK", 1024)
    index = write(tmp_path, [np.repeat(row, 1500, 0), np.repeat(row, 700, 0)])
    for queries in (1, 5, 100):
        query = rng.standard_normal((queries, 96)).astype(np.float32)
        found = index.search(query, 2200)
        np.testing.assert_array_equal(found.index, np.tile(np.arange(2200), (queries, 1)))


def test_rows_of_answers(tmp_path: pathlib.Path) -> None:
    index = write(tmp_path, [integers(0, 4, 4), integers(1, 3, 4)])
    assert [row.name for row in index.rows([6, 0, 4])] == ["6.png", "0.png", "4.png"]
    assert index.rows([5])[0].captions == ("picture 5",)
    with pytest.raises(IndexError):
        index.rows([7])


def test_errors_say_what_is_wrong(tmp_path: pathlib.Path) -> None:
    index = write(tmp_path, [integers(0, 4, 4)])
    for query, k, keep, said in [
        (np.ones((1, 5), np.float32), 1, None, "5 wide and .* 4"),
        (np.ones((1, 4), np.float32), 0, None, "is 0: use 1"),
        (np.full((1, 4), np.nan, np.float32), 1, None, "1 of 1 query embeddings are not finite"),
        (np.ones((1, 4), np.float32), 1, np.ones(3, bool), "for 3 rows and the index has 4"),
    ]:
        with pytest.raises(UserError, match=said):
            index.search(query, k, keep)


def test_an_index_is_replaced_while_it_is_opened(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(tmp_path, [integers(0, 4, 4), integers(1, 3, 4)])
    facts = iter([old.facts])
    write(tmp_path, [integers(0, 4, 4)])
    (tmp_path / "img_emb" / "img_emb_1.npy").unlink()
    now = index_module.read_facts
    monkeypatch.setattr(index_module, "read_facts", lambda folder: next(facts, None) or now(folder))
    assert len(Index.open(tmp_path)) == 4
