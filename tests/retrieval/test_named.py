# SPDX-License-Identifier: Apache-2.0
"""Published protocols: their sizes, their folds, and that nothing else carries their names."""

import dataclasses

import numpy as np
import oracles
import pytest

from cots_jax.errors import UserError
from cots_jax.retrieval import named
from cots_jax.retrieval.metrics import rank_both_ways, summarise
from cots_jax.retrieval.named import NAMED, NamedProtocol, evaluate_by, folds_of, named_protocol
from cots_jax.retrieval.protocols import describe_set, make_result, results_json, table

IMAGES, CAPTIONS, FOLDS, e = 20, 2, 4, 6


@pytest.fixture
def small(monkeypatch):
    """A protocol of twenty images in four folds."""
    wanted = NamedProtocol(IMAGES, CAPTIONS, FOLDS)
    monkeypatch.setattr(named, "NAMED", {"small": wanted, **NAMED})


class Problem:
    """Three captions an image, the third of which no protocol counts; texts in a shuffled order."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.image_group = 10 * np.arange(IMAGES)
        self.text_group = rng.permutation(np.repeat(self.image_group, CAPTIONS + 1))
        self.image = oracles.unit_rows(rng, IMAGES, e)
        noise = oracles.unit_rows(rng, len(self.text_group), e)
        self.text = self.image[self.text_group // 10] + 0.8 * noise

    def whole(self):
        groups = self.image_group, self.text_group
        said = {"dataset": "d", "split": "test", "towers": "given", "resolution": 0}
        ranks = rank_both_ways(self.image, self.text, *groups)
        return make_result("d", describe_set(*groups, **said), summarise(ranks))

    def by(self, name):
        groups = self.image_group, self.text_group
        return evaluate_by(name, self.whole(), self.image, self.text, *groups)

    def oracle(self):
        """Each fold by hand: its five images and the first two captions of each."""
        found = []
        for start in range(0, IMAGES, 5):
            images = np.arange(start, start + 5)
            groups = self.image_group[images]
            texts = [np.flatnonzero(self.text_group == group)[:CAPTIONS] for group in groups]
            texts = np.concatenate(texts)
            ranks = rank_both_ways(
                self.image[images], self.text[texts], groups, self.text_group[texts]
            )
            found.append(summarise(ranks))
        return found


def test_the_figures_are_means_over_folds(small):
    problem = Problem()
    result, folds = problem.by("small"), problem.oracle()
    for side in ("image_to_text", "text_to_image"):
        for field in ("r1", "r5", "r10", "median_rank", "mean_rank"):
            wanted = np.mean([getattr(getattr(fold, side), field) for fold in folds])
            assert getattr(getattr(result, side), field) == pytest.approx(wanted)
    assert result.rsum == pytest.approx(np.mean([fold.rsum for fold in folds]))
    assert result.text_to_image.r1 > problem.whole().text_to_image.r1  # fewer candidates


def test_the_protocol_says_so(small):
    result = Problem().by("small")
    row = results_json([result])["results"][0]["protocol"]
    assert (row["named"], row["folds"], row["images"], row["texts"]) == ("small", 4, 20, 40)
    assert row["candidates"] == {"image_to_text": 10, "text_to_image": 5}
    assert row["captions_per_image"] == 2
    assert "mean of 4 folds" in table([result])
    assert result.interval_95.rsum.low <= result.rsum <= result.interval_95.rsum.high


def test_a_set_as_it_is_carries_no_name():
    row = results_json([Problem().whole()])["results"][0]["protocol"]
    assert "named" not in row
    assert "folds" not in row


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        (19, 3, r"20 images with at least 2 captions each; here are 19 images with 3 or more"),
        (20, 1, r"here are 20 images with 1 or more: rejects\.jsonl"),
    ],
)
def test_what_is_missing_is_said(small, images, captions, message):
    group = np.arange(images)
    with pytest.raises(UserError, match=message):
        folds_of("small", group, np.repeat(group, captions))


def test_an_image_without_captions_and_images_of_one_group_are_refused(small):
    group = np.arange(IMAGES)
    with pytest.raises(UserError, match="with 0 or more"):
        folds_of("small", group, np.repeat(group[1:], 5))
    with pytest.raises(UserError, match="several share one"):
        folds_of("small", np.zeros(IMAGES, int), np.zeros(40, int))


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UserError, match="coco_5k"):
        named_protocol("coco5k")


@pytest.mark.parametrize("name", NAMED)
def test_the_published_sizes_divide_into_their_folds(name):
    protocol = NAMED[name]
    assert protocol.images % protocol.folds == 0
    group = np.arange(protocol.images)
    folds = folds_of(name, group, np.repeat(group, protocol.captions + 1))
    assert len(folds) == protocol.folds
    assert sum(len(fold.texts) for fold in folds) == protocol.images * protocol.captions


def test_coco_1k_is_five_folds_of_the_same_5k():
    assert dataclasses.replace(NAMED["coco_1k"], folds=1) == NAMED["coco_5k"]
