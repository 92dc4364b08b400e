# SPDX-License-Identifier: Apache-2.0
"""The API over a small collection: what is found, shown and refused."""

import asyncio
import io
import pathlib
import shutil
import zlib

import numpy as np
import pytest
from doors import run_prepare
from fastapi.testclient import TestClient
from PIL import Image
from small_service import client_of, make_index, png, small_app, write_pictures
from starlette.types import Message

from cots_jax.serve import limits
from cots_jax.serve.access import Access
from cots_jax.serve.gallery import Gallery


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("serve")
    write_pictures(folder / "pictures")
    make_index(folder / "pictures", folder / "index")
    return folder / "index"


@pytest.fixture(scope="module")
def client(out: pathlib.Path):
    with client_of(out) as client:
        yield client


def found(client: TestClient, **asked: object) -> dict:
    said = client.get("/api/search", params=asked)
    assert said.status_code == 200, said.text
    return said.json()


def names(answer: dict) -> list[str]:
    return [hit["name"] for hit in answer["hits"]]


def error_of(said) -> str:
    assert set(said.json()) == {"error"}
    return said.json()["error"]


class TestSearch:
    def test_by_words(self, client: TestClient) -> None:
        answer = found(client, q="red")
        assert names(answer)[0] == "red/0.png"
        assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
        scores = [hit["score"] for hit in answer["hits"]]
        assert scores == sorted(scores, reverse=True)
        assert answer["asked"] == [{"kind": "text", "weight": 1, "text": "red", "picture": None}]

    def test_by_an_expression(self, client: TestClient) -> None:
        assert names(found(client, q="red + green"))[0].startswith("yellow/")
        answer = found(client, q="3*white - red")
        assert [(p["weight"], p["text"]) for p in answer["asked"]] == [(3, "white"), (-1, "red")]
        assert {name.split("/")[0] for name in names(answer)[:3]} <= {"white", "blue", "green"}

    def test_near_duplicates_are_folded(self, client: TestClient) -> None:
        folded, apart = found(client, q="red"), found(client, q="red", fold="off")
        assert "red/1.png" not in names(folded)
        assert "red/1.png" in [under["name"] for under in folded["hits"][0]["alike"]]
        assert names(apart)[:2] == ["red/0.png", "red/1.png"]
        assert not any(hit["alike"] for hit in apart["hits"])

    def test_pages_are_the_whole_collection_once(self, client: TestClient) -> None:
        for asked in ({}, {"q": "red"}, {"q": "red", "fold": "off"}):
            pages = [found(client, page=page, **asked) for page in (1, 2)]
            assert [page["more"] for page in pages] == [len(pages[1]["hits"]) > 0, False]
            shown = [h["name"] for p in pages for hit in p["hits"] for h in (hit, *hit["alike"])]
            assert len(shown) == len(set(shown)) == 40
            assert all(len(page["hits"]) <= limits.SHOWN for page in pages)

    def test_what_stands_out_is_before_the_largest_drop(self, client: TestClient) -> None:
        answer = found(client, q="blue", fold="off")
        scores = np.array([hit["score"] for hit in answer["hits"]])
        before = sum(hit["stands_out"] for hit in answer["hits"])
        assert before == answer["standing_out"] == int(np.argmax(scores[:-1] - scores[1:])) + 1

    def test_like_and_unlike(self, client: TestClient) -> None:
        blue = found(client, q="blue")["hits"][0]["id"]
        white = found(client, q="white")["hits"][0]["id"]
        answer = found(client, like=blue)
        assert names(answer)[0] == "blue/0.png"
        assert answer["asked"][0]["picture"]["name"] == "blue/0.png"
        away = found(client, q="white", unlike=blue)
        assert not names(away)[0].startswith(("blue", "white"))
        assert {part["kind"] for part in away["asked"]} == {"text", "unlike"}
        assert found(client, like=[blue, white])["asked"][1]["picture"]["id"] == white

    def test_filters(self, client: TestClient) -> None:
        answer = found(client, q="red", under="blue/", fold="off")
        assert answer["pictures"] == 8
        assert all(name.startswith("blue/") for name in names(answer))
        assert len(names(answer)) == 8
        assert found(client, q="red", under="none/")["hits"] == []
        assert found(client, under="blue/7.png")["hits"][0]["name"] == "blue/7.png"
        assert found(client, caption="red")["pictures"] == 0  # pictures of a folder have none

    def test_by_a_picture(self, client: TestClient) -> None:
        said = client.post(
            "/api/vectors", content=png((0, 255, 0)), headers={"content-type": "image/png"}
        )
        vector = said.json()["vector"]
        answer = found(client, picture=vector)
        assert names(answer)[0] == "green/0.png"
        assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-2)
        both = found(client, picture=vector, q="red")
        assert names(both)[0].startswith("yellow/")
        assert [part["kind"] for part in both["asked"]] == ["text", "picture"]

    def test_the_collection(self, client: TestClient) -> None:
        said = client.get("/api/collection").json()
        assert said["pictures"] == 40
        assert said["folders"] == {f"{n}/": 8 for n in ("red", "green", "blue", "white", "yellow")}
        assert (said["captions"], said["examples"]) == (False, [])

    def test_the_collection_is_counted_once(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for counting in ("folders", "examples"):
            monkeypatch.setattr(Gallery, counting, None)
        assert client.get("/api/collection").status_code == 200


class TestPictures:
    def test_a_small_copy(self, client: TestClient) -> None:
        hit = found(client, q="red")["hits"][0]
        said = client.get(f"/api/pictures/{hit['id']}")
        assert said.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(said.content)) as picture:
            assert picture.size == (32, 24)
            assert picture.getpixel((5, 5)) == pytest.approx((254, 0, 0), abs=3)
        etag = {"if-none-match": said.headers["etag"]}
        assert client.get(f"/api/pictures/{hit['id']}", headers=etag).status_code == 304
        large = client.get(f"/api/pictures/{hit['id']}?size=large", headers=etag)
        assert large.status_code == 200

    @pytest.mark.parametrize(
        "path",
        [
            "../../../etc/passwd",
            "..%2f..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/etc/passwd",
            "..%252f..%252fetc%252fpasswd",
            "%c0%ae%c0%ae%c0%af",
            "..\\..\\etc\\passwd",
            "....//....//etc/passwd",
            "red/0.png",
            "%00",
            "/etc/passwd",
            "A" * 5000,
        ],
    )
    @pytest.mark.parametrize("prefix", ["/api/pictures/", "/page/", "/"])
    def test_no_path_reaches_the_disk(self, client: TestClient, prefix: str, path: str) -> None:
        said = client.get(prefix + path)
        assert said.status_code in (404, 422), said.text
        assert b"root:" not in said.content

    def test_an_id_of_another_picture_is_unknown(self, client: TestClient) -> None:
        assert "search again" in error_of(client.get("/api/pictures/AAAAAAAAAAAA"))
        assert client.get("/api/search", params={"like": "AAAAAAAAAAAA"}).status_code == 404

    def test_pictures_that_are_gone_broken_or_linked_out(self, tmp_path: pathlib.Path) -> None:
        write_pictures(tmp_path / "pictures")
        make_index(tmp_path / "pictures", tmp_path / "index")
        (tmp_path / "secret.png").write_bytes(png((1, 2, 3)))
        with client_of(tmp_path / "index") as client:
            hits = found(client, under="red/", fold="off")["hits"]
            ids = {hit["name"]: hit["id"] for hit in hits}
            folder = tmp_path / "pictures" / "red"
            (folder / "0.png").unlink()
            (folder / "1.png").write_bytes(b"no picture")
            (folder / "2.png").unlink()
            (folder / "2.png").symlink_to(tmp_path / "secret.png")
            for name in ("red/0.png", "red/1.png", "red/2.png"):
                said = client.get(f"/api/pictures/{ids[name]}")
                assert said.status_code == 404
                assert "update the index" in error_of(said)
            assert client.get(f"/api/pictures/{ids['red/3.png']}").status_code == 200

    @pytest.mark.parametrize("ending", ["jpg", "gif"])
    @pytest.mark.parametrize("side", [32, 1400])
    def test_what_was_written_beside_a_picture_stays_here(
        self, tmp_path: pathlib.Path, ending: str, side: int
    ) -> None:
        exif = Image.Exif()
        exif[0x010E] = "taken at home"
        (tmp_path / "pictures").mkdir()
        path = tmp_path / "pictures" / f"a.{ending}"
        Image.new("RGB", (side, side), "red").save(path, exif=exif, comment=b"my home")
        assert b"home" in path.read_bytes()
        make_index(tmp_path / "pictures", tmp_path / "index")
        with client_of(tmp_path / "index") as client:
            id = found(client)["hits"][0]["id"]
            for size in ("small", "large"):
                assert b"home" not in client.get(f"/api/pictures/{id}?size={size}").content


class TestSent:
    def send(self, client: TestClient, data: bytes, kind: str = "image/png"):
        return client.post("/api/vectors", content=data, headers={"content-type": kind})

    def test_nothing_that_is_no_picture(self, client: TestClient) -> None:
        for data in (
            b"",
            b"GIF89a",
            b"\x89PNG\r\n\x1a\n" + bytes(100),
            png((1, 2, 3))[:60],
            b"<svg/>",
            b"%!PS-Adobe",
        ):
            assert "no picture that can be read" in error_of(self.send(client, data))

    def test_no_other_type(self, client: TestClient) -> None:
        for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json", ""):
            assert self.send(client, png((1, 2, 3)), kind).status_code == 415

    def test_no_bomb(self, client: TestClient) -> None:
        """50,000 x 50,000 pixels in some kilobytes: refused by its head."""
        bomb = bytearray(png((0, 0, 0)))
        bomb[16:24] = (50_000).to_bytes(4, "big") * 2
        bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
        said = self.send(client, bytes(bomb))
        assert said.status_code == 413
        assert "too many pixels" in error_of(said)

    def test_no_huge_body(self, client: TestClient) -> None:
        said = self.send(client, bytes(limits.PICTURE_BYTES + 1))
        assert said.status_code == 413
        assert said.headers["connection"] == "close"
        chunks = (bytes(1024**2) for _ in range(20))  # without a length
        head = {"content-type": "image/png"}
        assert client.post("/api/vectors", content=chunks, headers=head).status_code == 413

    def test_a_client_that_hangs_up_is_no_failure(self, out: pathlib.Path) -> None:
        head = [(b"host", b"127.0.0.1"), (b"content-type", b"image/png")]
        scope = {"type": "http", "method": "POST", "path": "/api/vectors", "query_string": b"",
                 "headers": head}  # fmt: skip
        received = iter(
            [
                {"type": "http.request", "body": b"some of it", "more_body": True},
                {"type": "http.disconnect"},
            ]
        )
        sent: list[Message] = []

        async def receive() -> Message:
            return next(received)

        async def send(message: Message) -> None:
            sent.append(message)

        with small_app(out) as app:
            asyncio.run(app(scope, receive, send))
        assert sent[0]["status"] == 400

    @pytest.mark.parametrize(
        "vector", ["x", "!!!!", "A" * 8, "AH4AfgB-", "AAAAAAAA", "é", "A" * 9000]
    )
    def test_no_vector_of_another_make(self, client: TestClient, vector: str) -> None:
        said = client.get("/api/search", params={"picture": vector})
        assert said.status_code == 422
        assert "picture" in error_of(said)


class TestRefused:
    @pytest.mark.parametrize(
        "query",
        [
            "q=" + "x" * 10_000,
            "page=0", "page=41", "page=-1", "page=1e9", "page=x",
            "like=../x", "like=" + "&like=".join(["AAAAAAAAAAAA"] * 9), "unlike=",
            "fold=maybe", "size=9", "under=" + "x" * 501, "caption=" + "x" * 101,
            "q=" + "%2B".join(["a+"] * 40).replace("a+", "+a+"),
        ],
    )  # fmt: skip
    def test_what_is_out_of_bounds(self, client: TestClient, query: str) -> None:
        said = client.get(f"/api/search?{query}")
        assert said.status_code == 422, said.text
        assert error_of(said)

    @pytest.mark.parametrize(
        "q", ["%00", "%ff%fe", "%F0%9F%92%A9", "a%0d%0ab", "%22", "-", " - ", "0*a"]
    )
    def test_odd_words_are_words(self, client: TestClient, q: str) -> None:
        assert client.get(f"/api/search?q={q}").status_code == 200

    def test_a_query_that_takes_itself_away(self, client: TestClient) -> None:
        said = client.get("/api/search", params={"q": "red - red"})
        assert (said.status_code, "take each other away" in error_of(said)) == (422, True)

    def test_other_methods_and_places(self, client: TestClient) -> None:
        assert client.put("/api/search").status_code == 405
        assert client.get("/docs").status_code == 404  # its page loads scripts of others
        assert error_of(client.get("/none"))

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "", "a:b:c", "localhost:x"]
    )
    def test_another_host_name(self, client: TestClient, host: str) -> None:
        """A page whose name was pointed here must not read answers."""
        said = client.get("/api/search", headers={"host": host})
        assert said.status_code == 421
        assert client.get("/health", headers={"host": host}).status_code == 421

    @pytest.mark.parametrize(
        "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "10.0.0.7"]
    )
    def test_our_own_names(self, client: TestClient, host: str) -> None:
        assert client.get("/health", headers={"host": host}).status_code == 200

    def test_pages_of_other_sites(self, client: TestClient) -> None:
        for site in ("cross-site", "same-site"):
            head = {"sec-fetch-site": site}
            assert client.get("/api/search", headers=head).status_code == 403
            assert client.get("/", headers=head).status_code == 403
            visit = {**head, "sec-fetch-mode": "navigate"}
            assert client.get("/", headers=visit).status_code == 200
            assert client.get("/api/search", headers=visit).status_code == 403

    def test_too_many(self, out: pathlib.Path) -> None:
        with client_of(out, Access(rate=0.4)) as client:
            answers = [client.get("/api/search") for _ in range(14)]
            assert [answer.status_code for answer in answers[:2]] == [200] * 2  # of five seconds
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused and int(refused[0].headers["retry-after"]) >= 1

    @pytest.mark.parametrize("page", ["40", "40.0", "1&page=40"])
    def test_deep_pages_count_for_more(self, out: pathlib.Path, page: str) -> None:
        with client_of(out, Access(rate=20.0)) as client:
            answers = [client.get(f"/api/search?q=red&page={page}") for _ in range(5)]
            assert [answer.status_code for answer in answers[:2]] == [200] * 2
            assert answers[-1].status_code == 429  # of a hundred first pages

    def test_every_answer_is_armoured(self, client: TestClient) -> None:
        for path in ("/", "/page/search.js", "/api/search", "/none", "/api/pictures/x", "/metrics"):
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "server" not in headers


class TestWhatIsSaidOfIt:
    def test_openapi(self, client: TestClient) -> None:
        said = client.get("/openapi.json").json()
        assert {"/api/search", "/api/vectors", "/api/pictures/{id}", "/health", "/metrics"} <= set(
            said["paths"]
        )
        search = said["paths"]["/api/search"]["get"]
        assert {p["name"] for p in search["parameters"]} >= {
            "q",
            "picture",
            "like",
            "unlike",
            "under",
        }
        assert "image/png" in said["paths"]["/api/vectors"]["post"]["requestBody"]["content"]
        for path in said["paths"].values():
            for operation in path.values():
                assert operation.get("description"), operation

    def test_metrics(self, client: TestClient) -> None:
        client.get("/api/search", params={"q": "red"})
        client.get("/made-up-by-a-client")
        said = client.get("/metrics").text
        assert 'cots_search_requests_total{route="/api/search",status="200"}' in said
        assert 'cots_search_batch_requests_count{kind="search"}' in said
        assert "cots_search_pictures 40.0" in said
        assert "made-up" not in said

    def test_health(self, client: TestClient) -> None:
        assert client.get("/health").json() == {"status": "ok", "pictures": 40}


@pytest.mark.parametrize("kind", ["tar", "split"])
def test_other_kinds_of_collections(tmp_path: pathlib.Path, kind: str) -> None:
    write_pictures(tmp_path / "pictures", shades=2)
    if kind == "tar":
        archive = shutil.make_archive(str(tmp_path / "all"), "tar", tmp_path / "pictures")
        make_index(archive, tmp_path / "index")
    else:
        lines = "".join(f"{c}/{n}.png,a {c} one,all\n" for c in ("red", "blue") for n in range(2))
        (tmp_path / "captions.csv").write_text("image,caption,split\n" + lines)
        flags = ("--captions=captions.csv", "--images=pictures", "--out=data")
        assert run_prepare(tmp_path, "pairs", *flags).status == 0
        make_index(f"{tmp_path / 'data'}#all", tmp_path / "index")
    with client_of(tmp_path / "index") as client:
        answer = found(client, q="red", fold="off")
        assert "red" in names(answer)[0]
        for hit in answer["hits"]:
            assert client.get(f"/api/pictures/{hit['id']}").status_code == 200
        if kind == "split":
            assert answer["hits"][0]["captions"] == ["a red one"]
            assert found(client, caption="BLUE")["pictures"] == 2
            assert client.get("/api/collection").json()["examples"]


def test_a_collection_that_is_gone(tmp_path: pathlib.Path) -> None:
    write_pictures(tmp_path / "pictures", shades=1)
    make_index(tmp_path / "pictures", tmp_path / "index")
    shutil.rmtree(tmp_path / "pictures")
    with pytest.raises(Exception, match="which is not there"), client_of(tmp_path / "index"):
        pass
