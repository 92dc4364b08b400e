# SPDX-License-Identifier: Apache-2.0
"""What one request may cost: own choice throughout."""

SHOWN = 30  # pictures of a page
DEEPEST = 40  # pages
LEAST = 64  # pictures looked at for an answer
QUERY_CHARACTERS = 1000
TERMS = 16  # of an expression, each of which is embedded
MARKED = 8  # pictures liked, and as many not
PICTURE_BYTES = 16 * 1024**2
PICTURE_PIXELS = 50_000_000  # a phone's largest; 0.8 GB while a transparent one is unpacked
VIDEO_BYTES = 4 * 1024**2  # of an answer; a browser asks for the next ones
HEAD_SECONDS = 10.0  # to send the head of a request
REQUEST_SECONDS = 20.0  # from its head to the last byte of the answer
VECTOR_CHARACTERS = 8192  # a picture of 3,000 dimensions
CONNECTIONS = 512
WAITING = 256  # requests for the device
ADDRESSES = 10_000  # whose rates are remembered
BURST = 5.0  # seconds' worth of requests at once


def depth_of(page: int) -> int:
    """How many pictures, a power of two, a page at least has to look at; from 0."""
    return max(LEAST, 1 << ((page + 1) * SHOWN).bit_length())
