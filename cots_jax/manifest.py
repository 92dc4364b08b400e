# SPDX-License-Identifier: Apache-2.0
"""A folder's manifest: the size and SHA-256 of every file, so that no damage passes unseen.

`manifest.json` is written last and carries its own digest: a folder without a good one was never
finished, or was changed since. Own choice; Orbax alone restores flipped bytes without a word.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
NAME = "manifest.json"


def write(folder: Path, identity: Mapping[str, Any]) -> None:
    """Brings every file below `folder` to the disk, then describes them all in the manifest.

    identity: what the folder claims to be, in JSON; `fault` compares it.
    """
    files = {}
    for file in _files(folder):
        sync(file)
        name = file.relative_to(folder).as_posix()
        files[name] = {"size": file.stat().st_size, "sha256": _digest(file)}
    for inner in (entry for entry in folder.rglob("*") if entry.is_dir()):
        sync(inner)
    unfinished = folder / f"{NAME}.unfinished"
    unfinished.write_bytes(_render({"format": FORMAT, "identity": identity, "files": files}))
    sync(unfinished)
    unfinished.rename(folder / NAME)
    sync(folder)


def fault(folder: Path, identity: Mapping[str, Any] | None, part: str = "") -> str | None:
    """The first difference between the folder and its manifest in words, or None.

    identity: what the folder is taken for; None where that does not matter.
    part: looks only at a file, or at those in a folder, of this name; "" at all.
    Files that were added count too, but for hidden ones, which file browsers leave.
    """
    try:
        return next(_faults(folder, identity, part), None)
    except OSError as error:
        return f"it cannot be read: {error}"


def sync(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _faults(folder: Path, identity: Mapping[str, Any] | None, part: str) -> Iterator[str]:
    if not (folder / NAME).is_file():
        yield f"{NAME} is missing"
        return
    manifest = _parse((folder / NAME).read_bytes())
    if manifest is None:
        yield f"{NAME} is damaged"
    elif manifest["format"] != FORMAT:
        yield f"it is of format {manifest['format']}, and this version reads format {FORMAT}"
    elif identity is not None and manifest["identity"] != identity:
        yield f"it was saved as {manifest['identity']} and is now taken for {identity}"
    else:
        yield from _differences(folder, manifest["files"], part)


def _differences(folder: Path, expected: Mapping[str, Any], part: str) -> Iterator[str]:
    found = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    for name in sorted({*found, *expected} - {NAME}):
        if part and name != part and not name.startswith(f"{part.rstrip('/')}/"):
            continue
        if name not in found:
            yield f"{name} is missing"
        elif name not in expected:
            if not found[name].name.startswith("."):
                yield f"{name} was added later"
        elif (size := found[name].stat().st_size) != expected[name]["size"]:
            yield f"{name} has {size} bytes instead of {expected[name]['size']}"
        elif _digest(found[name]) != expected[name]["sha256"]:
            yield f"{name} has changed since it was saved"


def _render(content: Mapping[str, Any]) -> bytes:
    """The one text that a manifest with this content may have; it carries its own digest."""
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "sha256": own}, indent=1, sort_keys=True).encode()


def _parse(text: bytes) -> dict[str, Any] | None:
    """The content, or None where a single byte of the text is not as it was written."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    content.pop("sha256", None)
    return content if _render(content) == text else None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.rglob("*") if not entry.is_dir())
