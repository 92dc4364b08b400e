# SPDX-License-Identifier: Apache-2.0
"""What the search service does under load, and with requests that mean it no good.

    python benchmarks/serve_load.py --index=indexes/demo

Starts `search serve` on a free port of this machine and has clients ask it without a pause, each on
a connection of its own: every time an expression made of two captions, and small copies of two of
its hits; one time in 20 a picture is sent, and one time in 20 something bad. Good requests must be
answered with 200, bad ones refused with a 4xx. The clients share the cores with the service.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import io
import json
import random
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SETTLING = 0.25  # of the time, after which memory is looked at first
BAD = (
    b"GET /api/search?q=" + b"x" * 10_000,
    b"GET /api/search?page=-1&like=../../etc/passwd",
    b"GET /api/search?picture=AAAA",
    b"GET /api/search?q=a+-+a",
    b"GET /api/pictures/..%2f..%2f..%2fetc%2fpasswd",
    b"GET /page/%2e%2e/%2e%2e/app.py",
    b"DELETE /api/search",
)


@dataclasses.dataclass
class Tally:
    """What came back: seconds by kind of request, and what was not as it should be."""

    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)

    def add(self, kind: str, seconds: float, status: int) -> None:
        """Counts an answer."""
        good = 400 <= status < 500 if kind == "bad" else status == 200
        self.seconds.setdefault(kind, []).append(seconds)
        if not good:
            self.wrong.append(f"{kind}: {status}")


class Client:
    """One connection that is kept."""

    def __init__(self, port: int, tally: Tally):
        self._port, self._tally = port, tally
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, kind: str, line: bytes, body: bytes = b"") -> bytes:
        """The body of the answer; line: method and target."""
        started = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        sent = b"Content-Type: image/png\r\nContent-Length: %d\r\n" % len(body) if body else b""
        writer.write(line + b" HTTP/1.1\r\nHost: localhost\r\n" + sent + b"\r\n" + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # pyrefly: ignore
        answer = await reader.readexactly(length)
        self._tally.add(kind, time.perf_counter() - started, int(head[9:12]))
        if b"connection: close" in head.lower():
            self._streams = None
        return answer


async def visit(client: Client, captions: Sequence[str], seed: int, until: float) -> None:
    """One visitor's requests."""
    rng = random.Random(seed)
    while time.perf_counter() < until:
        words = " + ".join(rng.sample(captions, 2)) if len(captions) > 1 else f"a {rng.random()}"
        query = urllib.parse.urlencode({"q": f"{rng.randint(1, 99)}*{words}"})
        answer = json.loads(await client.ask("search", f"GET /api/search?{query}".encode()))
        for hit in answer["hits"][:2]:
            await client.ask("picture", f"GET /api/pictures/{hit['id']}".encode())
        if rng.random() < 0.05:
            await client.ask("sent picture", b"POST /api/vectors", noise(seed))
        if rng.random() < 0.05:
            await client.ask("bad", rng.choice(BAD))
        if rng.random() < 0.02:
            await client.ask("bad", b"POST /api/vectors", b"no picture")


async def load(port: int, clients: int, seconds: float, resident: "Resident") -> Tally:
    """All visitors at once."""
    tally = Tally()
    first = json.loads(await Client(port, tally).ask("browse", b"GET /api/search?page=1"))
    captions = [hit["captions"][0].replace('"', "") for hit in first["hits"] if hit["captions"]]
    until = time.perf_counter() + seconds
    visits = [visit(Client(port, tally), captions, seed, until) for seed in range(clients)]
    watching = asyncio.create_task(resident.watch())
    ended = await asyncio.gather(*visits, return_exceptions=True)
    watching.cancel()
    tally.wrong += [repr(one) for one in ended if one is not None]
    return tally


class Resident:
    """The memory of a process, looked at once a second."""

    def __init__(self, pid: int):
        self._pid = pid
        self.megabytes: list[float] = []

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            said = Path(f"/proc/{self._pid}/status").read_text()
            self.megabytes.append(int(re.search(r"VmRSS:\s+(\d+)", said)[1]) / 1024)  # pyrefly: ignore
            await asyncio.sleep(1)


def noise(seed: int) -> bytes:
    """A picture of 640 x 480 pixels as PNG."""
    cells = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(cells).resize((640, 480)).save(out, "PNG", compress_level=1)
    return out.getvalue()


@contextlib.contextmanager
def serving(index: str, model: str) -> Generator[tuple[subprocess.Popen[str], int]]:
    """The service in a process of its own, and its port."""
    door = [sys.executable, "-m", "cots_jax.search", "serve", f"--index={index}"]
    door += ["--port=0", "--rate=1e6", *([f"--model={model}"] if model else [])]
    with subprocess.Popen(door, stderr=subprocess.PIPE, text=True) as service:
        try:
            assert service.stderr is not None
            said = before = ""
            while "http://" not in said:
                said, before = service.stderr.readline(), said
                if not said:
                    raise SystemExit(f"the service did not start: {before.strip()}")
            yield service, int(re.search(r":(\d+)/", said)[1])  # pyrefly: ignore
        finally:
            service.terminate()


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Starts the service, loads it and ends it."""
    with serving(flags.index, flags.model) as (service, port):
        resident = Resident(service.pid)
        tally = asyncio.run(load(port, flags.clients, flags.seconds, resident))
        alive = service.poll() is None
    settled = resident.megabytes[int(len(resident.megabytes) * SETTLING) :]
    times = {kind: percentiles(seconds) for kind, seconds in tally.seconds.items()}
    return {
        "clients": flags.clients, "seconds": flags.seconds, "alive": alive,
        "wrong": len(tally.wrong), "examples": tally.wrong[:5], "milliseconds": times,
        "searches_per_second": round(len(tally.seconds["search"]) / flags.seconds, 1),
        "megabytes": [round(settled[0]), round(max(settled)), round(settled[-1])],
    }  # fmt: skip


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of the times of one kind of request, in ms."""
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1000
    worst = 1000 * max(seconds)
    return {"count": len(seconds), **{
        name: round(float(value), 1)
        for name, value in zip(("p50", "p95", "p99", "worst"), (p50, p95, p99, worst), strict=True)
    }}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Prints what was measured; 1 where a request was not answered as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    found = measure(parser.parse_args(argv))
    print(json.dumps(found, indent=1))
    return 0 if found["alive"] and not found["wrong"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
