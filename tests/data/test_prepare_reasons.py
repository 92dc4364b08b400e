# SPDX-License-Identifier: Apache-2.0
"""The page on own data names every reason that a row can be dropped for, and no other."""

import re

from doors import PROJECT

CALL = re.compile(r'(?:BadRow|PictureError|file_unreadable|twin)\(\s*"([a-z0-9_]+)"')
SAID = re.compile(r'"((?:picture|caption|video)_[a-z0-9_]+)"')
NO_REASONS = {
    "caption_column",
    "caption_feature",
    "caption_words",
    "caption_characters",
    "caption_dropout",
}
NO_REASONS |= {f"video_{what}" for what in ("column", "path", "name", "file", "id")}


def test_every_reason_is_explained():
    package = PROJECT / "cots_jax" / "data" / "prepare"
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(package.glob("*.py")))
    given = set(CALL.findall(code)) | (set(SAID.findall(code)) - NO_REASONS)
    page = (PROJECT / "docs" / "own_data.md").read_text(encoding="utf-8")
    table = page[page.index("| reason |") : page.index("## Duplicates")]
    explained = set(re.findall(r"`([a-z]+_[a-z0-9_]+)`", table)) - {"status_failed_to_download"}
    assert {reason for reason in given if reason not in explained} <= {"picture_bytes"}
    assert explained <= given | {"image_name_not_utf8", "file_name_not_utf8"}
