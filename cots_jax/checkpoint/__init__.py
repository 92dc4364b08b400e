# SPDX-License-Identifier: Apache-2.0
"""Pytrees and JSON facts to disk and back, so that no damage passes unseen.

A checkpoint is `folder/STEP/`: one Orbax item a tree, one JSON file a fact, and `manifest.json`
with the size and SHA-256 of every file. It is written in `STEP.saving` and takes its name last,
so that a save killed at any moment leaves either the whole checkpoint or none. Orbax restores
flipped bytes without a word, therefore everything is checked against the manifest before use.
Other names in the folder: `STEP.replaced` (being exchanged for a newer save of the same step; still
good), `STEP.deleted` (on its way out), `STEP.aside` (of a later step than the run went on from, or
damaged and replaced by a copy), `STEP.fetching` (a copy that is on its way here).
"""

from cots_jax.checkpoint.finding import latest, latest_here, read_fact, verify
from cots_jax.checkpoint.folder import BEST, FOLDER, Damage, Found, Keep, put_aside
from cots_jax.checkpoint.restoring import restore, shapes
from cots_jax.checkpoint.saving import Saver, save

__all__ = [
    "BEST",
    "FOLDER",
    "Damage",
    "Found",
    "Keep",
    "Saver",
    "latest",
    "latest_here",
    "put_aside",
    "read_fact",
    "restore",
    "save",
    "shapes",
    "verify",
]
