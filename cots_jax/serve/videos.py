# SPDX-License-Identifier: Apache-2.0
"""The video files of an index, some bytes at a time: a browser asks for those that it plays."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from starlette.responses import Response, StreamingResponse

from cots_jax.collection.originals import GONE
from cots_jax.collection.sources import stamp_of
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.serve.limits import VIDEO_BYTES

TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm",
    ".mkv": "video/x-matroska", ".ogv": "video/ogg", ".ogg": "video/ogg"}  # fmt: skip
CHUNK = 64 * 1024  # bytes read at once
OTHER = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclasses.dataclass(frozen=True)
class _Span:
    """Bytes from `first` up to `last`, both of them included."""

    first: int
    last: int


def video_answer(path: Path, asked: str, known: str) -> Response:
    """Status 206 with at most VIDEO_BYTES of what a `Range` header asks for, from its beginning on;
    200 with all of the file where it asks for none, or for more than one; 416 beyond the end.

    known: the `If-Range` header. PictureError where the file is gone.
    """
    try:
        found = path.stat()
        headers = {"accept-ranges": "bytes", "cache-control": "private, max-age=600"}
        headers["etag"] = f'"{stamp_of(found)}"'
        kind = TYPES.get(path.suffix.lower(), OTHER)
        match = _RANGE.fullmatch(asked.strip())
        if not match or not any(match.groups()) or known not in ("", headers["etag"]):
            # starlette's FileResponse would look at the header once more
            headers["content-length"] = str(found.st_size)
            return StreamingResponse(_all_of(path.open("rb"), found.st_size), 200, headers, kind)
        span = _span(match[1], match[2], found.st_size)
        if span is None:
            headers["content-range"] = f"bytes */{found.st_size}"
            return Response(status_code=416, headers=headers)
        with path.open("rb") as file:
            file.seek(span.first)
            data = file.read(span.last + 1 - span.first)
    except OSError as error:
        raise PictureError(GONE) from error
    last = span.first + len(data) - 1  # a file that was cut meanwhile ends sooner
    headers["content-range"] = f"bytes {span.first}-{last}/{found.st_size}"
    return Response(data, 206, headers, kind)


def _all_of(file: BinaryIO, size: int) -> Iterator[bytes]:
    """As much as was announced; a file that has grown meanwhile has more."""
    with file:
        while size > 0 and (data := file.read(min(size, CHUNK))):
            size -= len(data)
            yield data


def _span(first: str, last: str, size: int) -> _Span | None:
    """None where nothing of it is in the file."""
    if first:
        begin, end = int(first), min(int(last or size), size - 1)
    else:
        begin, end = max(0, size - int(last)), size - 1
    return _Span(begin, min(end, begin + VIDEO_BYTES - 1)) if begin <= end else None
