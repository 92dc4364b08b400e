# SPDX-License-Identifier: Apache-2.0
"""Copies of prepared data for studies: noise whose places are known, a part to choose by."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.study.arms import Fold, Noise
from benchmarks.study.copies import fold_copy, held_out
from benchmarks.study.noise import exchange, is_exchanged, noisy_copy
from cots_jax.data.records import list_splits, open_split


class TestNoise:
    @given(
        groups=st.lists(st.integers(0, 8), min_size=20, max_size=60).filter(
            lambda g: max(map(g.count, g)) < len(g) // 4
        ),
        seed=st.integers(0, 5),
    )
    def test_an_exchange_is_a_permutation_without_a_fitting_caption(self, groups, seed):
        groups = np.array(groups)
        rows, givers = exchange(groups, 1.0, seed)
        assert sorted(rows) == sorted(givers) == list(range(len(groups)))
        assert (groups[rows] != groups[givers]).all()

    def test_the_share_is_exact_and_the_seed_decides(self):
        groups = np.arange(1000)
        rows, givers = exchange(groups, 0.2, 0)
        assert len(set(rows)) == len(rows) == 200
        again, other = exchange(groups, 0.2, 0), exchange(groups, 0.2, 1)
        np.testing.assert_array_equal(givers, again[1])
        assert set(rows) != set(other[0])

    def test_a_copy_differs_in_the_captions_of_its_training_split_alone(self, pairs, tmp_path):
        noise = Noise(str(tmp_path / "noisy"), str(pairs), 0.5)
        assert noisy_copy(noise).outcome == "made"
        assert noisy_copy(noise).outcome == "already there"
        for split in ("train", "val"):
            with open_split(noise.of, split) as old, open_split(noise.folder, split) as new:
                both = [(old.record(i), new.record(i)) for i in range(len(old))]
                groups = len({new.record(i).group_id for i in range(len(new))})
            changed = np.array([one.captions != other.captions for one, other in both])
            assert all(one.image == other.image and one.id == other.id for one, other in both)
            wrong = is_exchanged(noise.folder, len(both)) if split == "train" else changed & False
            np.testing.assert_array_equal(changed, wrong)
            assert changed.sum() == (24 if split == "train" else 0)
            assert groups == len(both)


class TestFold:
    def test_every_training_picture_is_in_one_part_and_nothing_else_is(self, pairs, tmp_path):
        fold = Fold(str(tmp_path / "fold"), str(pairs), 0.25)
        assert fold_copy(fold).outcome == "made"
        assert fold_copy(fold).outcome == "already there"
        assert sorted(list_splits(fold.folder)) == ["dev", "train"]
        found = {split: self._records(fold.folder, split) for split in ("dev", "train")}
        assert len(found["dev"]) == 12
        both = found["dev"] | found["train"]
        assert both == self._records(fold.of, "train")
        assert len(both) == len(found["dev"]) + len(found["train"])

    def test_another_seed_holds_others_out(self, pairs, tmp_path):
        folds = [Fold(str(tmp_path / f"{seed}"), str(pairs), 0.25, seed) for seed in (0, 1)]
        for fold in folds:
            fold_copy(fold)
        one, other = (set(self._records(fold.folder, "dev")) for fold in folds)
        assert one != other

    @given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 5))
    def test_a_group_is_not_torn(self, groups, seed):
        groups = np.array(groups)
        out = held_out(groups, 0.5, seed)
        assert not set(groups[out]) & set(groups[~out])
        assert len(set(groups[out])) == round(0.5 * len(set(groups)))

    @staticmethod
    def _records(folder, split):
        with open_split(folder, split) as rows:
            records = [rows.record(row) for row in range(len(rows))]
        return {record.id: (record.image, record.captions) for record in records}
