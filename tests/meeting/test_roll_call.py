# SPDX-License-Identifier: Apache-2.0
"""Processes, here threads, that meet at a port: all come, or all hear why not."""

import concurrent.futures
import socket
import time

import pytest

from cots_jax.errors import UserError
from cots_jax.meeting.places import Place
from cots_jax.meeting.roll_call import call_roll

LONG = 60.0  # seconds; never waited for


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def meet(port: int, *who: tuple[int, int], seconds: float = LONG, host: str = "localhost"):
    """What each (index, count) hears: None, or the error."""

    def one(index: int, count: int) -> str | None:
        try:
            return call_roll(Place(index, count, "a test", f"{host}:{port}"), seconds)
        except UserError as error:
            return f"{error.status}: {error}"

    with concurrent.futures.ThreadPoolExecutor(len(who)) as pool:
        return [future.result() for future in [pool.submit(one, *given) for given in who]]


def test_all_come(port):
    assert meet(port, (3, 4), (1, 4), (0, 4), (2, 4)) == [None] * 4
    assert meet(port, (0, 2), (1, 2)) == [None] * 2  # at the same port, right after


def test_an_address_of_numbers(port):
    assert meet(port, (0, 2), (1, 2), host="127.0.0.1") == [None] * 2


def test_another_count_is_told_to_all(port):
    said = meet(port, (0, 2), (1, 3))
    assert said[0] == said[1]
    assert said[0].startswith("1: process 1 believes in 3 processes, process 0 in 2")


def test_one_index_twice_is_told_to_all(port):
    said = meet(port, (0, 3), (1, 3), (1, 3))
    assert said[0] == said[1] == said[2]
    assert "two processes have the index 1" in said[0]


def test_who_is_missing_is_told_to_those_that_came(port):
    first, second = meet(port, (0, 4), (2, 4), seconds=2.5)
    assert first == second
    assert first.startswith("75: 2 of 4 processes did not come")
    assert "(of index 1, 3)" in first


def test_nobody_is_there(port):
    (said,) = meet(port, (1, 2), seconds=0.1)
    assert said.startswith(
        f"75: process 1 of 2, by a test, did not find process 0 at localhost:{port}"
    )
    assert "Connection refused" in said


def test_a_host_that_has_no_name(port):
    (said,) = meet(port, (1, 2), seconds=0.1, host="no-such-host.invalid")
    assert "did not find process 0 at no-such-host.invalid" in said


def test_a_port_that_is_taken(port):
    with socket.create_server(("", port)):
        (said,) = meet(port, (0, 2))
    assert f"process 0 cannot listen on port {port} (Address already in use)" in said


def test_strangers_at_the_port_are_no_processes(port):
    def strangers() -> None:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"", b"cots_jax one two\n", b"\xff" * 1000):
            while True:
                try:
                    way = socket.create_connection(("localhost", port), 5)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            with way:
                way.sendall(words)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, port, (0, 2))
        strangers()
        assert meet(port, (1, 2)) == [None]
        assert first.result() == [None]


def test_something_else_answers(port):
    with (
        socket.create_server(("", port)) as other,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        said = pool.submit(meet, port, (1, 2), seconds=0.1)
        way, _ = other.accept()
        with way:
            way.sendall(b"HTTP/1.1 400 Bad Request\r\n")
            assert "something answers that is no process of ours" in said.result()[0]
