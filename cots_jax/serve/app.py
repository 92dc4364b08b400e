# SPDX-License-Identifier: Apache-2.0
"""The page and its API."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cots_jax.data.prepare.pictures import PictureError, strict_decoding
from cots_jax.errors import UserError
from cots_jax.serve import answers
from cots_jax.serve.access import Access
from cots_jax.serve.batching import OverloadedError
from cots_jax.serve.gallery import ID_PATTERN, UnknownPictureError
from cots_jax.serve.guard import CLOSE, TOO_LARGE, Guard, busy, refused
from cots_jax.serve.limits import PICTURE_BYTES, REQUEST_SECONDS
from cots_jax.serve.questions import Search, asked, hit, wanted
from cots_jax.serve.service import Service
from cots_jax.serve.thumbnails import Size
from cots_jax.serve.videos import OTHER

EXAMPLES = 6
PAGE = "search.html"
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript",
    ".svg": "image/svg+xml"}  # fmt: skip
SENT_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "application/octet-stream")

Id = Annotated[str, Path(pattern=ID_PATTERN, description="of a hit")]
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.Failure} for status in (400, 401, 403, 404, 421, 422, 429, 503)
}
_VIDEO: dict[str, Any] = {"video/*": {}, OTHER: {}}
_PARTS: dict[int | str, dict[str, Any]] = {
    206: {"description": "a part of it", "content": _VIDEO},
    416: {"description": "beyond its end"},
}
_SENT_FAILURES = {**_FAILURES, **{s: {"model": answers.Failure} for s in (408, 413, 415)}}
_SENT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in SENT_TYPES
        },
    }
}


def make_app(service: Service, access: Access, alike: float) -> Guard:
    """The ASGI application. alike: cosine from which pictures are folded."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        with strict_decoding():
            yield
        service.close()

    # the usual pages of documentation load scripts of other hosts
    app = FastAPI(
        title="cots_jax search", version="1", summary="Pictures by text, by picture, or by both",
        lifespan=lifespan, docs_url=None, redoc_url=None,
    )  # fmt: skip
    _add_errors(app)
    _add_page(app, service)
    _add_search(app, service, alike)
    _add_pictures(app, service)
    return Guard(app, access, service.metrics)


def _add_page(app: FastAPI, service: Service) -> None:
    files = {
        file.name: file.read_bytes()
        for file in (resources.files("cots_jax.serve") / "page").iterdir()
        if file.is_file()
    }

    def give(name: str) -> Response:
        kind = PAGE_TYPES["." + name.rpartition(".")[2]]
        return Response(files[name], media_type=kind, headers={"cache-control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return give(PAGE)

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        return give(name) if name in files else refused(404, "there is no such file")

    @app.get("/health")
    async def health() -> answers.Health:
        """Answers once everything is loaded and first pages are compiled; needs no token."""
        return answers.Health(status="ok", pictures=len(service.gallery))

    @app.get("/metrics", response_class=Response, responses=_FAILURES)
    async def metrics() -> Response:
        """For Prometheus, in its text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_search(app: FastAPI, service: Service, alike: float) -> None:
    gallery = service.gallery
    # counted once: of a million names it takes a second, in which nobody else is answered
    counted = answers.Collection(
        pictures=len(gallery),
        captions=gallery.has_captions,
        folders=gallery.folders(),
        examples=gallery.examples(EXAMPLES),
    )

    @app.get("/api/collection", responses=_FAILURES)
    async def collection() -> answers.Collection:
        """What there is to search."""
        return counted

    @app.get("/api/search", response_model=answers.Answer, responses=_FAILURES)
    async def search(asks: Annotated[Search, Query()]) -> Response:
        """Pictures by an expression, by a picture, by pictures of the index, or by all of these;
        all pictures in a mixed order where nothing is asked."""
        question = wanted(asks, gallery, alike)
        found = await service.search(question)
        answer = answers.Answer(
            hits=[hit(shown, gallery) for shown in found.shown],
            asked=asked(question, gallery),
            page=asks.page,
            more=found.more,
            pictures=found.pictures,
            standing_out=found.standing_out,
        )
        # made here: FastAPI would check every hit once more
        return Response(answer.model_dump_json(), media_type="application/json")


def _add_pictures(app: FastAPI, service: Service) -> None:
    @app.post("/api/vectors", responses=_SENT_FAILURES, openapi_extra=_SENT_BODY)
    async def vector(request: Request) -> answers.Vector:
        """A picture, as the bytes of its file, to the vector that a search takes."""
        if request.headers.get("content-type", "").partition(";")[0].strip() not in SENT_TYPES:
            raise HTTPException(415, f"send a picture as one of {', '.join(SENT_TYPES)}")
        data = bytearray()
        try:
            async with asyncio.timeout(REQUEST_SECONDS / 2):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > PICTURE_BYTES:
                        raise HTTPException(413, TOO_LARGE, CLOSE)
        except TimeoutError:
            raise HTTPException(408, "the picture came too slowly: send a smaller one") from None
        found = await service.vector(bytes(data))
        return answers.Vector(vector=answers.to_text(found))

    @app.get("/api/pictures/{id}", response_class=Response, responses={
        **_FAILURES, 200: {"content": {"image/jpeg": {}}}, 304: {"description": "as it was"},
    })  # fmt: skip
    async def thumbnail(id: Id, request: Request, size: Size = Size.SMALL) -> Response:
        """A picture of the index as JPEG, its longer side at most 320 or 1280 pixels."""
        row = service.gallery.row_of(id)
        headers = {
            "cache-control": "private, max-age=600",
            "etag": f'"{service.gallery.rows[row].digest[:16]}-{size}"',
        }
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(await service.thumbnail(row, size), 200, headers, "image/jpeg")

    @app.get("/api/videos/{id}", response_class=Response, responses={
        **_FAILURES, **_PARTS, 200: {"content": _VIDEO},
    })  # fmt: skip
    async def video(id: Id, request: Request) -> Response:
        """The video file that a hit is a piece of. Of a `Range`, some MiB come at a time."""
        row = service.gallery.row_of(id)
        headers = request.headers
        return await service.video(row, headers.get("range", ""), headers.get("if-range", ""))


def _add_errors(app: FastAPI) -> None:
    """One shape for all: {"error": one sentence}."""

    @app.exception_handler(OverloadedError)
    async def overloaded(request: Request, error: OverloadedError) -> Response:
        return busy()

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return refused(404 if isinstance(error, UnknownPictureError) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return refused(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(PictureError)
    async def no_picture(request: Request, error: PictureError) -> Response:
        if request.method == "GET":
            return refused(404, f"the picture cannot be shown ({error}): update the index")
        if str(error) == "picture_too_large":
            return refused(413, "the picture has too many pixels: send a smaller one")
        return refused(422, "this is no picture that can be read: send a JPEG, PNG, WebP or GIF")

    @app.exception_handler(ClientDisconnect)
    async def hung_up(request: Request, error: ClientDisconnect) -> Response:
        return refused(400, "the picture came only in part: send it again", CLOSE)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return refused(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return refused(500, "the service has failed, and says why on its standard error")
