# SPDX-License-Identifier: Apache-2.0
"""Small files: the old text or the new one, and nothing beside them."""

import errno
import os
from pathlib import Path

import pytest

from cots_jax.errors import UserError
from cots_jax.files import write_whole


def test_makes_the_folder_and_replaces_the_text(tmp_path: Path) -> None:
    file = tmp_path / "run" / "config.json"
    for text in ("old", "ünï"):
        write_whole(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_costs_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "config.json"
    write_whole(file, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"config\.json \(No space left on device\): make room"):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/config\.json"):
        write_whole(tmp_path / "file" / "config.json", "new")
