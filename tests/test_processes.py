# SPDX-License-Identifier: Apache-2.0
"""Shares of work, and two real processes that rank, gather and evaluate as one does."""

import itertools

import numpy as np
import pytest
from doors import in_two_processes
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.errors import UserError
from cots_jax.meeting.places import ADDRESS, COUNT, INDEX
from cots_jax.processes import (
    HEARTBEAT,
    JOIN,
    WHOLE,
    Share,
    add_up,
    gather_rows,
    join_processes,
    this_process,
)
from cots_jax.retrieval.metrics import rank_both_ways

RANKING = """
import sys
import numpy as np
from cots_jax.processes import gather_rows, join_processes, this_process
from cots_jax.retrieval.metrics import rank_both_ways

join_processes()
share = this_process()
given = np.load(sys.argv[1])
ranks = rank_both_ways(given["image"], given["text"], given["groups"], given["text_groups"],
                       share=share)
uneven = np.arange(3 * 5, dtype=np.float32).reshape(5, 3)[[*share.of(5)]]
np.savez(sys.argv[2] + str(share.index), image=ranks.image_to_text, text=ranks.text_to_image,
         rows=gather_rows(uneven, share), count=share.count)
"""


@given(pieces=st.integers(0, 10**6), count=st.integers(1, 600))
def test_shares_in_order_are_all_pieces(pieces, count):
    shares = [Share(index, count).of(pieces) for index in range(count)]
    assert shares[0].start == 0 and shares[-1].stop == pieces
    assert all(one.stop == other.start for one, other in itertools.pairwise(shares))
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1


def test_alone_a_process_has_everything():
    rows = np.arange(6, dtype=np.int32)
    assert this_process() == WHOLE
    assert gather_rows(rows, WHOLE) is rows and add_up(rows, WHOLE) is rows


def test_wide_rows_are_refused_and_not_cut():
    with pytest.raises(ValueError, match="32 bits"):
        gather_rows(np.zeros(3), Share(0, 2))


@pytest.mark.parametrize("name", [JOIN, HEARTBEAT])
@pytest.mark.parametrize("told", ["soon", "0", "-5", "1.5"])
def test_a_time_that_is_none_is_an_error(monkeypatch, name, told):
    monkeypatch.setenv(name, told)
    with pytest.raises(UserError, match=f"{name}={told}: it is a whole number of seconds"):
        join_processes()


def test_an_address_alone_asks_for_nothing(monkeypatch):
    """JAX and some launchers set it for a single process too."""
    monkeypatch.setenv(ADDRESS, "localhost:1")
    for name in (COUNT, INDEX):
        monkeypatch.delenv(name, raising=False)
    join_processes()
    assert this_process() == WHOLE


def test_two_processes_rank_as_one(tmp_path):
    rng = np.random.default_rng(0)
    image, text = (rng.integers(-2, 3, (rows, 6)).astype(np.float32) for rows in (700, 1500))
    groups, text_groups = np.arange(700), rng.permutation(np.arange(1500) % 700)
    np.savez(tmp_path / "given.npz", image=image, text=text, groups=groups, text_groups=text_groups)
    for said in in_two_processes(tmp_path, "-c", RANKING, "given.npz", "found"):
        assert said.status == 0, said.err
    alone = rank_both_ways(image, text, groups, text_groups)
    for index in range(2):
        found = np.load(tmp_path / f"found{index}.npz")
        assert found["count"] == 2
        np.testing.assert_array_equal(found["image"], alone.image_to_text)
        np.testing.assert_array_equal(found["text"], alone.text_to_image)
        np.testing.assert_array_equal(found["rows"], np.arange(15).reshape(5, 3))
