# SPDX-License-Identifier: Apache-2.0
"""A service that asks for a token."""

import pathlib

import pytest
from fastapi.testclient import TestClient
from small_service import client_of, make_index, write_pictures

from cots_jax.serve.access import Access

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("guarded")
    write_pictures(folder / "pictures", shades=1)
    make_index(folder / "pictures", folder / "index")
    return folder / "index"


@pytest.fixture
def guarded(out: pathlib.Path):
    with client_of(out, Access(TOKEN, ("photos.example",), 1e6)) as client:
        yield client


def test_nothing_without_it(guarded: TestClient) -> None:
    for path in ("/", "/api/search", "/metrics", "/openapi.json", "/page/search.js", "/none"):
        said = guarded.get(path)
        assert said.status_code == 401, path
        assert "needs its token" in said.json()["error"]
    wrong = {"authorization": "Bearer 0123456789abcdeg", "cookie": "cots_search_80=x"}
    assert guarded.get("/api/search", headers=wrong).status_code == 401
    assert guarded.get("/api/search?token=" + TOKEN).status_code == 401
    assert guarded.get("/health").status_code == 200


def test_as_a_header(guarded: TestClient) -> None:
    head = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/api/search", headers=head).status_code == 200


def test_the_page_takes_a_cookie_and_forgets_the_address(guarded: TestClient) -> None:
    said = guarded.get(f"/?q=red&token={TOKEN}")
    assert (said.status_code, said.headers["location"]) == (303, "/?q=red")
    cookie = said.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert guarded.get("/").status_code == 200
    assert guarded.get("/api/search").status_code == 200


@pytest.mark.parametrize(
    "other", ['prefs={"theme":"dark"}', "flag", "a[b]=1", "u=%7B; x=a b c", "name=J\xe9"]
)
def test_its_cookie_beside_those_of_others(guarded: TestClient, other: str) -> None:
    cookie = f"{other}; cots_search_80={TOKEN}; y=1"
    raw = [(b"cookie", cookie.encode("latin-1"))]
    assert guarded.get("/api/search", headers=raw).status_code == 200


def test_its_name(guarded: TestClient) -> None:
    for host, status in (
        ("photos.example", 401),
        ("Photos.Example:80", 401),
        ("x.example", 421),
    ):
        assert guarded.get("/", headers={"host": host}).status_code == status


def test_odd_cookies_and_headers(guarded: TestClient) -> None:
    for head in (
        {"cookie": "a=\x80;;=;"},
        {"authorization": "Bearer \xe9"},
        {"cookie": "=" * 999},
    ):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in head.items()]
        assert guarded.get("/", headers=raw).status_code == 401
