# SPDX-License-Identifier: Apache-2.0
"""A run's copy in a bucket, by Google's own protocol to a server of this process."""

import pathlib
import shutil
import socket
from collections.abc import Iterator

import pytest
from test_mirror import KEEP, fetched, names, write_run, write_step

from cots_jax import checkpoint
from cots_jax.errors import UserError
from cots_jax.train.mirror import Mirror

pytest.importorskip("gcsfs", reason="needs the extra cots_jax[gcs]")
server = pytest.importorskip("gcp_storage_emulator.server", reason="needs the extra cots_jax[test]")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    serving = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    serving.start()
    yield "gs://bucket/runs/demo"
    serving.stop()


def test_a_lost_disk_comes_back(bucket: str, tmp_path: pathlib.Path) -> None:
    run = write_run(tmp_path / "run", 10, 20)
    mirror = Mirror(run, bucket)
    mirror.send(KEEP)
    assert mirror.behind == ""
    write_step(run, 30)
    shutil.rmtree(run / "checkpoints" / "10")
    mirror.send(KEEP)
    assert not any(name.startswith("checkpoints/10/") for name in mirror._there())
    wanted = {name for name in names(run) if not name.startswith("checkpoints/20/")} - {".lock"}
    shutil.rmtree(run)
    run.mkdir()
    assert fetched(Mirror(run, bucket)) == [f"step 30 came back from {bucket}"]
    assert names(run) == wanted
    assert checkpoint.verify(run / "checkpoints" / "30") is None


def test_a_bucket_that_is_not_there(bucket: str, tmp_path: pathlib.Path) -> None:
    mirror = Mirror(tmp_path, "gs://nowhere/run")
    with pytest.raises(UserError, match=r"'gs://nowhere/run' cannot be used .*: name a folder"):
        fetched(mirror)
