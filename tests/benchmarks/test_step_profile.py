# SPDX-License-Identifier: Apache-2.0
"""The step benchmark's profile: where a program's time went, ours and the peer's."""

import jax
import jax.numpy as jnp
import pytest
import torch

from benchmarks.step import profile
from cots_jax.errors import UserError

STEPS = 3


def test_a_program_of_one_product_is_a_product_called_once_a_step() -> None:
    a, b = jnp.ones((256, 256)), jnp.ones((256, 256))
    product = jax.jit(lambda a, b: jnp.dot(a, b))
    spent, calls = profile.profile(lambda: jax.block_until_ready(product(a, b)), STEPS)
    products = [name for name in spent if profile.kind_of(name) == "products"]
    assert [calls[name] for name in products] == [pytest.approx(1)]
    assert sum(spent.values()) > 0


def test_the_peers_products_are_told_from_its_copies_and_sums() -> None:
    a = torch.ones(64, 64)
    title, names = profile.peer_tables("Peer", lambda: (a @ a.T.contiguous()).sum())
    assert {row[0] for row in title.rows} == {"products", "copies", profile.ELSE}
    assert {row[0]: row[2] for row in names.rows}["aten::mm"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mm", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "products"),
        ("aten::copy_", "copies"),
        ("aten::gelu_backward", profile.ELSE),
    ],
)
def test_kinds_of_the_peer_by_name(name: str, kind: str) -> None:
    assert profile.kind_of(name, profile.PEER_KINDS) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ynn_fusion", "products"),
        ("dot_general", "products"),
        ("convolution", "products"),
        ("convert_bitcast_fusion", profile.ELSE),
        ("bitcast_dynamic-update-slice_fusion", "loops over blocks"),
        ("copy_bitcast_fusion", "copies"),
        ("add_divide_fusion", profile.ELSE),
    ],
)
def test_kinds_by_name(name: str, kind: str) -> None:
    assert profile.kind_of(name) == kind


def test_tables_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {f"a{letter}_fusion": 2.0 for letter in "abcdefghijklmnopqrstuvwxyz"} | {"dot": 8.0}
    monkeypatch.setattr(profile, "profile", lambda _: (spent, dict.fromkeys(spent, 1.0)))
    kinds, names = profile.tables("Ours", lambda: None)
    assert [row[0] for row in kinds.rows] == [profile.ELSE, "products"]
    assert sum(row[1] for row in kinds.rows) == sum(row[1] for row in names.rows) == 60.0
    assert sum(row[2] for row in kinds.rows) == pytest.approx(100)
    assert names.rows[-1][:2] == ("7 others", 14.0)


def test_no_instruction_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_instructions", lambda _: [])
    with pytest.raises(UserError, match="leave --profile out"):
        profile.profile(lambda: None, STEPS)
