# SPDX-License-Identifier: Apache-2.0
"""Flickr8k from scratch: natural photographs, both towers without any pre-training.

  python -m cots_jax.prepare pairs --captions=captions.jsonl --images=images.tar --out=data/flickr8k
  python -m cots_jax.main --config=configs/dvae.py:flickr8k --workdir=runs/flickr8k-dvae
  python -m cots_jax.main --config=configs/flickr8k.py
  python -m cots_jax.evaluate --workdir=runs/flickr8k

The size is chosen for 20 minutes on two cores. Every value is an own choice (O).
"""

from hardware import chosen, hardware
from methods import METHODS, set_method
from ml_collections import ConfigDict

KINDS: dict[str, tuple[str, ...]] = {"method": METHODS}


def get_config(names: str = "") -> ConfigDict:
    """A part or baseline of methods.py in the place of all levels."""
    found = chosen(names, KINDS)
    config = ConfigDict()
    config.name = "flickr8k"
    config.seed = 0
    config.model = "photo-32"  # ViT 4 x 128 at 32 px, patch 8; BERT 2 x 128
    config.duration = "9000 steps"
    config.batch = 64  # pairs
    config.checkpoint_every = "10%"
    config.evaluate_every = "10%"
    config.log_every = "1%"
    config.diagnose_every = "10%"
    config.image_tokenizer = "runs/flickr8k-dvae"
    config.image_tokenizer_config = "configs/dvae.py:flickr8k"
    config.data = ConfigDict(
        {
            "train": "data/flickr8k#train",
            "eval": "data/flickr8k#val",
            "prepare": "python -m cots_jax.prepare pairs --captions=captions.jsonl "
            "--images=images.tar --out=data/flickr8k",
            "text_length": 20,  # tokens
            "tokenizer": "captions:4000",  # WordPiece trained on the captions
            "threads": 1,
        }
    )
    config.augmentation = ConfigDict(
        {
            "crop": (0.5, 1.0),  # area of the random crop
            "flip_probability": 0.5,
            "brightness": 0.3,
            "contrast": 0.3,
            "saturation": 0.3,
            "fill": 0.5,
            "word_dropout": 0.2,
        }
    )
    config.method = ConfigDict(
        {
            "queue_length": 256,  # pairs; longer ones did worse at this size
            "negatives": "queue_and_batch",
            "temperature": 0.05,
            "momentum": "0.99",  # a reference batch
            "reference_batch": 64,  # pairs
            "weight_instance": "1",
            "weight_mvm": "0.05 @ 60%, 0 @ 60%",
            "weight_mlm": "0.3 @ 30%, 0.1 @ 60%, 0 @ 60%",
            "weight_task": "0 @ 10%, 0.2 @ 10%, 0.5 @ 40%",
            "alignment": {"teacher": "momentum"},
            "masked": {"text_ratio": 0.3, "text_every": 2, "image_every": 8},
            "filter": {"kappa": 3.0, "warmup": "15%"},
        }
    )
    config.optimizer = ConfigDict(
        {"learning_rate": "0 @ 0%, 1e-3 @ 8%, cosine 0 @ 100%", "weight_decay": 0.1}
    )
    config.hardware = hardware(found["hardware row"])
    set_method(config, found["method"])
    return config
