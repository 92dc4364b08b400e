# SPDX-License-Identifier: Apache-2.0
"""Stands before every request: who may ask, how often, how long; and the headers of answers."""

import asyncio
import hmac
import math
import time
import urllib.parse
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cots_jax.serve.access import Access
from cots_jax.serve.limits import (
    DEEPEST,
    LEAST,
    PICTURE_BYTES,
    REQUEST_SECONDS,
    depth_of,
)
from cots_jax.serve.metrics import Metrics
from cots_jax.serve.rates import Rates

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",  # an address says what was looked for
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
OPEN = "/health"  # asked by those who hold no token
SEARCH = "/api/search"
COSTS = {"/api/vectors": 5.0}  # first pages' worth; whatever else that is no search, CHEAP
CHEAP = 0.05
TOO_LARGE = f"a picture may have {PICTURE_BYTES // 1024**2} MiB: send a smaller one"
CLOSE = {"connection": "close"}  # nobody reads the rest of the body
COOKIE = "cots_search_{port}"  # browsers keep cookies by host, whatever the port


class Guard:
    """Refuses what must not come in, and times the rest out."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics):
        self._app, self._access, self._metrics = app, access, metrics
        self._rates = Rates(access.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                handler = self._refusal(scope) or self._app
                await handler(scope, receive, dressed)
        except TimeoutError:
            if status:
                raise  # an answer that nobody reads: the connection is closed
            late = refused(
                503, "the service is too busy: try again in a moment", {"retry-after": "2"}
            )
            await late(scope, receive, dressed)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(route, status, time.monotonic() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        if not self._access.knows(headers.get("host", "")):
            return refused(421, "this service is not known by that name: start it with --name=NAME")
        # other sites' pages could not read an answer, but could have work done for it
        site = headers.get("sec-fetch-site", "none")
        visited = path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not visited:
            return refused(403, "pages of other sites may not ask this service")
        if self._access.token and path != OPEN:
            found = self._let_in(scope, headers)
            if found is not None:
                return found
        address = (scope.get("client") or ("", 0))[0]
        seconds = self._rates.wait(address, _cost(scope))
        if seconds:
            after = str(math.ceil(seconds))
            return refused(429, f"too many requests: wait {after} s", {"retry-after": after})
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy may differ
            return refused(400, "a request has one length", CLOSE)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > PICTURE_BYTES:
            return refused(413, TOO_LARGE, CLOSE)
        return None

    def _let_in(self, scope: Scope, headers: Headers) -> Response | None:
        """None for who has shown the token. The page gets a cookie for it on its first visit."""
        cookie = COOKIE.format(port=(scope.get("server") or ("", 0))[1])
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(bearer) or self._is_token(_cookies(headers).get(cookie, "")):
            return None
        asked = _asked(scope)
        if scope["path"] == "/" and self._is_token(dict(asked).get("token", "")):
            rest = urllib.parse.urlencode([pair for pair in asked if pair[0] != "token"])
            page = RedirectResponse("/" + (f"?{rest}" if rest else ""), 303)
            # lax: a strict one would be missing when the page is opened from a mail
            page.set_cookie(cookie, self._access.token, httponly=True, samesite="lax")
            return page
        return refused(
            401,
            "this page needs its token: open the address that `search serve` has printed, or send "
            "it as `Authorization: Bearer TOKEN`",
            {"www-authenticate": "Bearer"},
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._access.token.encode())


def refused(status: int, why: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form of all others."""
    return JSONResponse({"error": why}, status, dict(headers or {}))


def busy() -> Response:
    """For what cannot be answered in time."""
    return refused(503, "the service is too busy: try again in a moment", {"retry-after": "2"})


def _asked(scope: Scope) -> list[tuple[str, str]]:
    return urllib.parse.parse_qsl(scope["query_string"].decode("latin-1"))


def _cost(scope: Scope) -> float:
    """What a request takes of its address's rate: of a search, by how many pictures its page has
    to look at."""
    if scope["path"] != SEARCH:
        return COSTS.get(scope["path"], CHEAP)
    try:
        page = int(float(dict(_asked(scope)).get("page", 1)))
    except (ValueError, OverflowError):
        page = 1  # it will be refused
    return depth_of(min(max(page, 1), DEEPEST) - 1) / LEAST


def _cookies(headers: Headers) -> dict[str, str]:
    """Of the header as browsers send it: other services of this host may have left there what
    `http.cookies` takes for the end, or for none at all."""
    pairs = (pair.partition("=") for pair in headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}
