# SPDX-License-Identifier: Apache-2.0
"""Raw connections: slow ones, malformed ones, and bodies that nobody wants."""

import socket
from collections.abc import Generator
from urllib.parse import urlsplit

import pytest
from running import running
from small_service import make_index, write_pictures

from cots_jax.serve import connection


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("raw")
    write_pictures(folder / "pictures", shades=1)
    make_index(folder / "pictures", folder / "index")
    patience = pytest.MonkeyPatch()
    patience.setattr(connection, "HEAD_SECONDS", 0.4)
    with running(folder / "index") as url:
        yield (urlsplit(url).hostname or "", urlsplit(url).port or 0)
    patience.undo()


def talk(address: tuple[str, int], *said: bytes) -> bytes:
    """What comes back until the service closes."""
    with socket.create_connection(address, timeout=60) as peer:
        for part in said:
            peer.sendall(part)
        answer = b""
        try:
            while more := peer.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
        return answer


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


def test_half_a_head_is_not_waited_for(address: tuple[str, int]) -> None:
    assert talk(address) == b""
    assert talk(address, GET) == b""


def test_trickling_buys_no_time(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=60) as peer:
        peer.sendall(GET)
        sent = 0
        try:
            while sent < 10_000:
                peer.sendall(b"X-A: b\r\n")
                sent += 1
                peer.settimeout(0.05)
                try:
                    if peer.recv(1000) == b"":
                        break
                except TimeoutError:
                    continue
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert sent < 1000


def test_a_kept_connection_is_answered_and_then_closed(address: tuple[str, int]) -> None:
    answer = talk(address, GET + b"\r\n" + GET + b"\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        GET + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        GET + b"Content-Length: -1\r\n\r\n",
        GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        b"GET /%00%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda said: said[:30].decode("latin-1"),
)
def test_what_is_malformed_is_refused(address: tuple[str, int], said: bytes) -> None:
    answer = talk(address, said)
    status = answer.split(b"\r\n", 1)[0]
    assert b" 4" in status or answer == b"", status
    assert talk(address, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_is_too_large_ends_the_connection(address: tuple[str, int]) -> None:
    head = b"POST /api/vectors HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    answer = talk(address, head + b"Content-Length: 99999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer


def test_a_body_that_does_not_come_is_not_waited_for_by_others(address: tuple[str, int]) -> None:
    head = b"POST /api/vectors HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    with socket.create_connection(address, timeout=60) as peer:
        peer.sendall(head + b"Content-Length: 1000\r\n\r\nabc")
        assert talk(address, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
