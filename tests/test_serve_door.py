# SPDX-License-Identifier: Apache-2.0
"""`search serve` as a user starts it, on the small world's model."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator

import pytest
from doors import PROJECT, command, run_apart, run_search
from tiny_world import Tiny

from benchmarks.page_speed import chromium

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def started(root: pathlib.Path, *flags: str) -> Generator[str]:
    """The address that the door prints."""
    door = subprocess.Popen(
        command("search", "serve", "--port=0", *flags),
        cwd=root, env={**os.environ, "PYTHONPATH": str(PROJECT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert door.stderr is not None
    try:
        said = ""
        while "http://" not in said:
            line = door.stderr.readline()
            assert line, said
            said += line
        yield said
        door.send_signal(signal.SIGINT)
        assert door.wait(60) == 0
        assert door.stderr.read() == ""
    finally:
        door.kill()
        door.stderr.close()


def answer(url: str, path: str) -> dict:
    address = re.search(r"http://127\.0\.0\.1:\d+", url)
    assert address is not None
    with urllib.request.urlopen(address[0] + path, timeout=60) as said:
        return json.loads(said.read())


def test_one_command_indexes_and_serves(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    flags = (f"--index={tmp_path / 'i'}", "--model=runs/tiny", "--images=data/tiny#val")
    with started(tiny.root, *flags) as said:
        assert "embedded 16" in said
        assert "16 pictures on http://127.0.0.1:" in said
        assert "token" not in said
        served = answer(said, "/api/search?q=bars+over+ring&fold=off")["hits"]
    asked = ("query", f"--index={tmp_path / 'i'}", "--text=bars over ring", "--top=16", "--json")
    hits = json.loads(run_search(tiny.root, *asked).out)["hits"]
    assert [hit["name"] for hit in served] == [hit["path"] for hit in hits]
    scores = [hit["score"] for hit in hits]
    assert [hit["score"] for hit in served] == pytest.approx(scores, abs=1e-5)
    with started(tiny.root, *flags) as said:
        assert "nothing changed" in said


def test_another_address_has_a_token(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    index = f"--index={tmp_path / 'i'}"
    assert run_search(tiny.root, "index", "--model=runs/tiny", "--images=pictures",
        f"--out={tmp_path / 'i'}").status == 0  # fmt: skip
    with started(tiny.root, index, "--host=0.0.0.0") as said:
        assert re.search(rf"http://{socket.gethostname().lower()}:\d+/\?token=\S{{32}} ", said)
    (tmp_path / "token").write_text("0123456789abcdef")
    with started(tiny.root, index, f"--token_file={tmp_path / 'token'}") as said:
        assert "0123456789abcdef" not in said


def test_under_load(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    assert run_search(tiny.root, "index", "--model=runs/tiny", "--images=data/tiny#val",
        f"--out={tmp_path / 'i'}").status == 0  # fmt: skip
    script = str(PROJECT / "benchmarks" / "serve_load.py")
    flags = (f"--index={tmp_path / 'i'}", "--clients=8", "--seconds=4")
    said = run_apart(tiny.root, [sys.executable, script, *flags])
    assert said.status == 0, said.out + said.err
    found = json.loads(said.out)
    assert (found["alive"], found["wrong"]) == (True, 0)
    assert found["milliseconds"]["bad"]["count"] > 0


def test_how_soon_the_page_shows_something(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser")
    if chromium() is None:
        pytest.skip("no Chromium on this machine")
    assert run_search(tiny.root, "index", "--model=runs/tiny", "--images=data/tiny#val",
        f"--out={tmp_path / 'i'}").status == 0  # fmt: skip
    flags = (f"--index={tmp_path / 'i'}", "--rounds=2")
    said = run_apart(tiny.root, [sys.executable, "-m", "benchmarks.page_speed", *flags])
    assert said.status == 0, said.out + said.err
    found = json.loads(said.out)
    assert found["rounds"] == 2
    times = {name: time["p50"] for name, time in found["milliseconds"].items()}
    assert 0 < times["service"] < times["results"] <= times["shown"]
    assert times["results"] > 120  # the page waits so long for another key


def test_what_cannot_be_served(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    def line(*flags: str, status: int = 1) -> str:
        said = run_search(tiny.root, "serve", *flags)
        assert said.status == status
        return said.line

    assert "there is no index in none" in line("--index=none", "--port=0")
    assert "add --model=WORKDIR" in line("--index=none", "--images=pictures")
    assert "--rate=0" in line("--index=none", "--rate=0", status=2)
    assert "cannot be read" in line("--index=none", "--token_file=none")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "choose another --host or --port" in line("--index=none", f"--port={port}")
    assert "choose another --host or --port" in line("--index=none", "--port=99999")
    assert "choose another --host or --port" in line("--index=none", "--host=no.such.invalid")
