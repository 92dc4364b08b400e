# SPDX-License-Identifier: Apache-2.0
"""Addresses, tokens and rates."""

import pathlib
import socket

import pytest

from cots_jax.errors import UserError
from cots_jax.serve.access import Access, Address
from cots_jax.serve.limits import ADDRESSES
from cots_jax.serve.rates import Rates


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert Address(host).access().token == ""


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.7", "photos.example", "localhost.example"]
)
def test_any_other_address_gets_one(host: str) -> None:
    first, second = Address(host).access(), Address(host).access()
    assert len(first.token) >= 32
    assert first.token != second.token
    assert first.knows(socket.gethostname())


def test_a_token_from_a_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    for host in ("127.0.0.1", "0.0.0.0"):
        assert Address(host, token_file=str(file)).access().token == "0123456789abcdef"
    for content in ("short", "", "0123456789 abcdef", "0123456789abcdé"):
        file.write_text(content)
        with pytest.raises(UserError, match="16 or more letters"):
            Address(token_file=str(file)).access()
    with pytest.raises(UserError, match="cannot be read"):
        Address(token_file=str(tmp_path / "none")).access()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_a_number(rate: float) -> None:
    with pytest.raises(UserError, match="--rate"):
        Address(rate=rate).access()


def test_names_are_told_apart_from_their_ends() -> None:
    access = Access(names=("photos.example",))
    for host in ("photos.example", "PHOTOS.example:80", "photos.example."):
        assert access.knows(host)
    for host in ("a.photos.example", "photos.example.evil", "photos.example:x", "photos.example@b"):
        assert not access.knows(host)


class TestRates:
    def test_tokens_come_back_with_time(self) -> None:
        now = [0.0]
        rates = Rates(2.0, lambda: now[0])
        assert [rates.wait("a", 1.0) for _ in range(10)] == [0.0] * 10
        assert rates.wait("a", 1.0) == pytest.approx(0.5)
        assert rates.wait("b", 1.0) == 0.0  # another address has its own
        now[0] = 0.5
        assert rates.wait("a", 1.0) == 0.0
        assert rates.wait("a", 1.0) > 0
        now[0] = 100.0
        assert [rates.wait("a", 1.0) for _ in range(11)].count(0.0) == 10

    def test_who_is_refused_pays_nothing(self) -> None:
        now = [0.0]
        rates = Rates(1.0, lambda: now[0])
        rates.wait("a", 5.0)
        for _ in range(100):
            assert rates.wait("a", 1.0) == pytest.approx(1.0)

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_what_costs_more_than_there_ever_is(self, rate: float) -> None:
        """It is let in, and not more often than the rate says."""
        now = [0.0]
        rates = Rates(rate, lambda: now[0])
        for _ in range(3):
            assert rates.wait("a", 5.0) == 0.0
            assert rates.wait("a", 5.0) == pytest.approx(5.0 / rate)
            now[0] += 5.0 / rate + 1e-6

    def test_memory_is_bounded(self) -> None:
        rates = Rates(1.0, lambda: 0.0)
        for number in range(ADDRESSES + 50):
            rates.wait(str(number), 1.0)
        assert len(rates) == ADDRESSES
