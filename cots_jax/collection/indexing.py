# SPDX-License-Identifier: Apache-2.0
"""An index made with a trained folder."""

from pathlib import Path

from cots_jax.collection.sources import open_source
from cots_jax.collection.update import Encoder, Maker, Updated, update
from cots_jax.errors import UserError
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.index_files import Storage
from cots_jax.weights.trained import find_trained


def index_collection(model: Path, images: str, out: Path, storage: Storage) -> Updated:
    """Makes or updates the index of `images` (a folder, FOLDER#SPLIT or a tar) in `out`.

    The model is loaded only where a picture has to be embedded. UserError.
    """
    found = find_trained(model)
    identity = found.identity

    def load() -> Encoder:
        opened = Pretrained.load(model)
        if opened.identity() != identity:
            raise UserError(f"{model} was trained on meanwhile: start again when it has ended")
        return Encoder(opened.encode_decoded, opened.encode_texts)

    preprocessing = found.facts["preprocessing"]
    with open_source(images, out) as source:
        return update(out, source, Maker(model, identity, preprocessing, storage, load))
