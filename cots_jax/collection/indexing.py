# SPDX-License-Identifier: Apache-2.0
"""An index made with a trained folder."""

from pathlib import Path

from cots_jax import checkpoint
from cots_jax.collection.sources import open_source
from cots_jax.collection.update import Encoder, Maker, Updated, update
from cots_jax.errors import UserError
from cots_jax.pretrained import Pretrained, best_or_newest, identity_of
from cots_jax.retrieval.index_files import Storage


def index_collection(model: Path, images: str, out: Path, storage: Storage) -> Updated:
    """Makes or updates the index of `images` (a folder, FOLDER#SPLIT or a tar) in `out`.

    The model is loaded only where a picture has to be embedded. UserError.
    """
    found = best_or_newest(model)
    identity = identity_of(found)

    def load() -> Encoder:
        opened = Pretrained.load(model)
        if opened.identity() != identity:
            raise UserError(f"{model} was trained on meanwhile: start again when it has ended")
        return Encoder(opened.encode_decoded, opened.encode_texts)

    preprocessing = checkpoint.read_fact(found.path, "facts")["preprocessing"]
    with open_source(images, out) as source:
        return update(out, source, Maker(model, identity, preprocessing, storage, load))
