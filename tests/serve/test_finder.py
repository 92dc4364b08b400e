# SPDX-License-Identifier: Apache-2.0
"""Questions answered together are answered as they would be alone."""

import dataclasses

import numpy as np
import pytest
from small_service import SIZE, embed_images, embed_texts, make_index, write_pictures

from cots_jax.collection.expression import Term
from cots_jax.errors import UserError
from cots_jax.retrieval.candidates import TopCandidates
from cots_jax.retrieval.index import Index
from cots_jax.serve.finder import MOST, Embedder, Finder, Page, Wanted
from cots_jax.serve.gallery import Filter, Gallery
from cots_jax.serve.limits import DEEPEST, SHOWN, depth_of


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Finder:
    folder = tmp_path_factory.mktemp("finder")
    write_pictures(folder / "pictures", shades=20)
    make_index(folder / "pictures", folder / "index")
    embedder = Embedder(embed_texts, embed_images, SIZE)
    return Finder(embedder, Gallery(Index.open(folder / "index")))


def words(text: str, weight: float = 1.0) -> Term:
    return Term(weight, text)


def test_a_mixed_batch(finder: Finder) -> None:
    asked = [
        Wanted((words("red"),)),
        Wanted(),
        Wanted((words("red"), words("red", -1.0))),
        Wanted((words("blue"),), filter=Filter(under="red/"), alike=2.0),
        Wanted((words("red"), words("green", 0.5)), unlike=(3,), page=1, alike=2.0),
        Wanted((words("red"),), filter=Filter(under="none")),
        *(Wanted((words(f"green {number}"),)) for number in range(40)),
    ]
    together = finder.find(asked)
    assert len(together) == len(asked)
    for one, page in zip(asked, together, strict=True):
        (alone,) = finder.find([one])
        if isinstance(page, UserError):
            assert "take each other away" in str(page)
            continue
        assert isinstance(alone, Page)
        assert [s.row for s in page.shown] == [s.row for s in alone.shown]
        scores = [(s.score or 0.0) for s in page.shown]
        assert scores == pytest.approx([(s.score or 0.0) for s in alone.shown], abs=1e-6)
    assert isinstance(together[2], UserError)
    assert together[5] == Page((), 0, 0, False)


def test_a_text_of_no_known_word_finds_nothing_by_chance(finder: Finder) -> None:
    embedder = Embedder(embed_texts, embed_images, SIZE, knows=lambda text: "red" in text)
    found = Finder(embedder, finder.gallery).find(
        [Wanted((words("red"),)), Wanted((words("red"), words("зебра"))), Wanted(like=(0,))]
    )
    assert [isinstance(page, Page) for page in found] == [True, False, True]
    assert "the model knows no word of 'зебра'" in str(found[1])


def test_pages_go_on_where_many_are_folded(finder: Finder) -> None:
    """Of a hundred pictures all that are led are found, however deep they stand."""
    asked = Wanted((words("white"),), alike=0.9999)
    shown, page = [], 0
    while True:
        (found,) = finder.find([Wanted(asked.terms, alike=asked.alike, page=page)])
        assert isinstance(found, Page)
        shown += [s.row for s in found.shown]
        page += 1
        if not found.more:
            break
    vectors = finder.gallery.vectors(shown)
    close = np.triu(vectors @ vectors.T, 1)
    assert close.max() < 0.9999 + 1e-6
    assert len(shown) == len(set(shown))
    everyone = finder.gallery.vectors(np.arange(len(finder.gallery)))
    assert (everyone @ vectors.T).max(axis=1).min() >= 0.9999 - 1e-6


def test_a_deep_page_is_looked_for_once(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not first among as many as are sure to be too few."""
    depths, search = [], finder.gallery.index.search

    def noting(queries: np.ndarray, k: int, keep: np.ndarray | None = None) -> TopCandidates:
        depths.append(k)
        return search(queries, k, keep)

    monkeypatch.setattr(finder.gallery.index, "search", noting)
    asked = Wanted((words("white"),), alike=2.0)
    finder.find([dataclasses.replace(asked, page=page) for page in (0, 1, 2, 39)])
    assert depths == [64, 128, 2048]
    assert all((page + 1) * SHOWN < depth_of(page) <= MOST for page in range(DEEPEST))


def test_the_mixed_order_has_everyone_once(finder: Finder) -> None:
    gallery = finder.gallery
    assert sorted(gallery.mixed(Filter()).tolist()) == list(range(100))
    for under, count in (("red/", 20), ("red/1", 11), ("red/7.png", 1), ("none", 0)):
        rows = gallery.mixed(Filter(under=under))
        assert len(set(rows.tolist())) == count
        assert all(gallery.rows[row].name.startswith(under) for row in rows)


def test_ids_lead_back(finder: Finder) -> None:
    gallery = finder.gallery
    assert [gallery.row_of(gallery.id(row)) for row in range(100)] == list(range(100))
    for id in ("", "A" * 12, "~" * 12):
        with pytest.raises(UserError, match="search again"):
            gallery.row_of(id)
