# SPDX-License-Identifier: Apache-2.0
"""A copy of a run at another place, from which it goes on where its own disk is lost (own choice).

The place is whatever fsspec opens: a folder, gs://BUCKET/NAME, s3://BUCKET/NAME, …; it has the
layout of the run's folder. Object stores rename nothing, so a checkpoint counts there once its
manifest is there: that is sent last, when everything else has arrived, and is removed first.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec

from cots_jax import checkpoint, manifest
from cots_jax.config import build_config
from cots_jax.errors import UserError
from cots_jax.files import write_whole
from cots_jax.schema import Config

SIGNED = re.compile(rf"((?:{checkpoint.FOLDER}|{checkpoint.BEST})/\d+)/.+")  # with a manifest
PASSING = re.compile(r".*\.(saving|replaced|deleted|aside|fetching|unfinished)(/.*)?|profile/.*")
CONFIG = "config.json"
EXTRAS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}

Say = Callable[[str], None]


class Mirror:
    """The copy of `workdir` at `place`. Raises UserError where no such place can be opened."""

    def __init__(self, workdir: Path, place: str) -> None:
        self._workdir, self._place = workdir, place
        self._sent: dict[str, tuple[int, int]] = {}  # plain files: size and time of change
        self.behind = ""  # why the last `send` failed
        with self._refusals_explained():
            self._fs, root = fsspec.core.url_to_fs(place, **_making_folders(place))
            self._root = str(root).rstrip("/")

    # ---------------------------------------------------------------- to the place

    def send(self, keep: checkpoint.Keep) -> None:
        """Brings the copy up to date; a failure is kept in `behind`, and the next call tries again.

        keep: what stays of the checkpoints here and there together, since a disk that was lost
        takes those that stay for good with it. Those of later steps than the run's stay, too.
        """
        try:
            self._send(keep)
        except Exception as error:  # each kind of store has errors of its own
            self.behind = f"the copy at {self._place} is behind: {_words(error)}"
        else:
            self.behind = ""

    def _send(self, keep: checkpoint.Keep) -> None:
        here, there = self._here(), self._there()
        plain = [n for n in here if not SIGNED.fullmatch(n) and self._sent.get(n) != here[n]]
        self._put([name for name in plain if name == CONFIG])  # by which a copy is known for one
        self._put([name for name in plain if name != CONFIG])
        self._sent |= {name: here[name] for name in plain}
        own = _folders(here)
        for folder, names in own.items():
            last = f"{folder}/{manifest.NAME}"
            if last in there and self._read(last) == (self._workdir / last).read_bytes():
                continue
            self._remove(folder, there)
            rest = [name for name in names if name != last]
            self._put(rest)
            self._arrived({name: here[name][0] for name in rest})
            self._put([last])
        newest = max((_step(folder) for folder in own), default=0)
        whole = {f for f in (own | _folders(there)) if f.startswith(f"{checkpoint.FOLDER}/")}
        kept = keep.names({_step(folder) for folder in whole if _step(folder) <= newest})
        for folder in _folders(there, whole=False).keys() - own.keys():
            stays = folder in whole and _step(folder) in kept
            if _step(folder) < newest and not stays:
                self._remove(folder, there)

    def _arrived(self, sizes: Mapping[str, int]) -> None:
        there = self._there()
        for name, size in sizes.items():
            if there.get(name) != size:
                raise OSError(f"{name} has {there.get(name)} bytes there instead of {size}")

    # ---------------------------------------------------------------- back from it

    def fetch(self, same_run: Callable[[Config], None], say: Say) -> None:
        """Brings the newest whole checkpoint back, with the run's other files, where it is newer
        than all good ones of the workdir.

        same_run: raises UserError where a config is not that of the run to come.
        Raises UserError where the place cannot be read or holds something else.
        """
        with self._refusals_explained():
            there = self._there()
            if not there:
                return
            if CONFIG not in there:
                raise UserError(
                    f"config.mirror = {self._place!r} holds files and no config.json, so no copy "
                    "of a run: name an empty place"
                )
            config = self._read(CONFIG).decode()
            same_run(build_config(json.loads(config)))
            whole, own = _folders(there), self._newest_here()
            steps = [f for f in whole if f.startswith(f"{checkpoint.FOLDER}/") and _step(f) > own]
            if not steps:
                return
            # The checkpoint last: a run that is killed before it is there begins here again.
            write_whole(self._workdir / CONFIG, config)
            plain = [name for name in there if not SIGNED.fullmatch(name) and name != CONFIG]
            self._get(plain, self._workdir)
            for folder in (f for f in whole if f.startswith(f"{checkpoint.BEST}/")):
                self._fetch(folder, there)
            for folder in sorted(steps, key=_step, reverse=True):
                reason = self._fetch(folder, there)
                if reason is None:
                    say(f"step {_step(folder)} came back from {self._place}")
                    return
                say(f"{folder} at {self._place} is damaged and passed over: {reason}")

    def _newest_here(self) -> int:
        try:
            found = checkpoint.latest_here(self._workdir / checkpoint.FOLDER)
        except UserError:  # all of them are damaged: the copy may have a good one
            return -1
        return found.step if found else -1

    def _fetch(self, folder: str, there: Mapping[str, int]) -> str | None:
        """Why it may not be used; None where it is in its place now, or was before."""
        final = self._workdir / folder
        if final.exists():
            if checkpoint.verify(final) is None:
                return None
            checkpoint.put_aside(final)
        coming = final.with_name(f"{final.name}.fetching")
        shutil.rmtree(coming, ignore_errors=True)  # of a run that was killed here
        names = [name for name in there if name.startswith(f"{folder}/")]
        self._get(names, coming, folder)
        reason = manifest.fault(coming, {"step": _step(folder)})
        if reason is None:
            coming.rename(final)
            manifest.sync(final.parent)
        else:
            shutil.rmtree(coming)
        return reason

    # ---------------------------------------------------------------- files

    def _here(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of what is worth a copy, by name below the workdir."""
        found = {}
        for file in sorted(self._workdir.rglob("*")):
            name = file.relative_to(self._workdir).as_posix()
            hidden = any(part.startswith(".") for part in name.split("/"))
            lasting = SIGNED.fullmatch(name) or not (hidden or PASSING.fullmatch(name))
            if lasting and file.is_file():
                facts = file.stat()
                found[name] = facts.st_size, facts.st_mtime_ns
        return found

    def _there(self) -> dict[str, int]:
        self._fs.invalidate_cache()
        found: dict[str, Any] = self._fs.find(self._root, detail=True)
        return {name[len(self._root) + 1 :]: facts["size"] for name, facts in found.items()}

    def _read(self, name: str) -> bytes:
        return self._fs.cat_file(f"{self._root}/{name}")

    def _put(self, names: list[str]) -> None:
        if names:
            paths = [str(self._workdir / name) for name in names]
            self._fs.put(paths, [f"{self._root}/{name}" for name in names])

    def _get(self, names: list[str], folder: Path, below: str = "") -> None:
        paths = [folder / name.removeprefix(f"{below}/") for name in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        if names:
            self._fs.get([f"{self._root}/{name}" for name in names], [str(path) for path in paths])

    def _remove(self, folder: str, there: Mapping[str, int]) -> None:
        names = sorted(name for name in there if name.startswith(f"{folder}/"))
        first = [name for name in names if name == f"{folder}/{manifest.NAME}"]
        for some in (first, [name for name in names if name not in first]):
            if some:
                self._fs.rm([f"{self._root}/{name}" for name in some])

    @contextlib.contextmanager
    def _refusals_explained(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each kind of store has errors of its own
            raise UserError(
                f"config.mirror = {self._place!r} cannot be used ({_words(error)}): "
                f"{_advice(self._place, error)}"
            ) from error


class NoMirror:
    """Where no copy is asked for."""

    behind = ""

    def send(self, keep: checkpoint.Keep) -> None:
        """Does nothing."""

    def fetch(self, same_run: Callable[[Config], None], say: Say) -> None:
        """Does nothing."""


def _making_folders(place: str) -> dict[str, Any]:
    return {"auto_mkdir": True} if fsspec.core.split_protocol(place)[0] in (None, "file") else {}


def _folders(names: Mapping[str, Any], *, whole: bool = True) -> dict[str, list[str]]:
    """Of each checkpoint the names of all that is in it.

    whole: of those with a manifest only.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        if match := SIGNED.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    return {
        folder: inside
        for folder, inside in found.items()
        if not whole or f"{folder}/{manifest.NAME}" in inside
    }


def _step(folder: str) -> int:
    return int(folder.rpartition("/")[2])


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]


def _advice(place: str, error: Exception) -> str:
    protocol = fsspec.core.split_protocol(place)[0] or ""
    if isinstance(error, ImportError) and protocol in EXTRAS:
        return f"pip install {EXTRAS[protocol]}"
    return "name a folder, or a gs:// or s3:// address that this machine may write to"
