# SPDX-License-Identifier: Apache-2.0
"""The config: what a contrast within the batch is refused with."""

import pytest
from smallest_config import build

from cots_jax.errors import UserError

IN_BATCH = {
    "method__contrast": "batch",
    "method__queue_length": 0,
    "method__filter__state": "off",
    "method__weight_task": "0",
}


class TestInBatchContrast:
    def test_it_wants_nothing_of_momentum(self):
        assert build(**IN_BATCH).method.contrast == "batch"

    @pytest.mark.parametrize(
        ("changes", "remedy"),
        [
            ({"method__queue_length": 8}, "config.method.queue_length=0"),
            ({"method__filter__state": "on"}, "config.method.filter.state=off"),
            ({"method__filter__list_dropped": "on"}, "config.method.filter.list_dropped=off"),
            ({"method__soft_targets": "0.4"}, "config.method.soft_targets=0"),
            ({"evaluation_towers": "momentum"}, "config.evaluation_towers=online"),
            (
                {"method__weight_task": "1", "method__alignment__teacher": "momentum"},
                "config.method.alignment.teacher=online",
            ),
        ],
    )
    @pytest.mark.parametrize("contrast", ["batch", "sigmoid"])
    def test_what_stands_on_it_is_refused_by_name(self, contrast, changes, remedy):
        with pytest.raises(UserError) as error:
            build(**IN_BATCH | {"method__contrast": contrast} | changes)
        said = f"contrast = {contrast} has no momentum towers and no queue: set {remedy}"
        assert str(error.value).endswith(said)

    def test_all_that_is_wrong_is_said_at_once(self):
        with pytest.raises(UserError, match=r"queue_length=0, config\.method\.filter\.state=off"):
            build(method__contrast="batch", method__queue_length=8)


class TestChunks:
    """`column_chunk` saves memory, so that what it cannot do must not be left out in silence."""

    def test_the_sigmoid_loss_has_none(self):
        with pytest.raises(UserError, match=r"column_chunk = 8 would do nothing .* sigmoid"):
            build(**IN_BATCH | {"method__contrast": "sigmoid", "method__column_chunk": 8})

    @pytest.mark.parametrize(
        "compared", [IN_BATCH, {"method__negatives": "queue_and_batch"}], ids=["batch", "both"]
    )
    def test_a_batch_that_is_compared_with_itself_has_whole_ones(self, compared):
        assert build(**compared, batch=32, method__column_chunk=8).method.column_chunk == 8
        assert build(**compared, batch=32, method__column_chunk=64).method.column_chunk == 64
        with pytest.raises(UserError, match="column_chunk = 10 does not divide the batch 32"):
            build(**compared, batch=32, method__column_chunk=10)

    def test_any_will_do_for_a_queue(self):
        """`CotsStep.fresh` makes it as long as whole ones."""
        built = build(batch=32, method__queue_length=24, method__column_chunk=10)
        assert built.method.column_chunk == 10
