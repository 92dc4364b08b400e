# SPDX-License-Identifier: Apache-2.0
"""The smallest real run: every part of the full objective in seconds, for whole-program tests.

    python -m cots_jax.prepare pairs --captions=captions.csv --images=pictures --out=data/tiny
    python -m cots_jax.main --config=configs/tiny.py:dvae --workdir=runs/tiny-dvae
    python -m cots_jax.main --config=configs/tiny.py
    python -m cots_jax.evaluate --workdir=runs/tiny

Any few dozen pairs with the splits `train` and `val` will do. On the 64 of the tests it learns
enough to tell right from wrong: about 30 % R@1 among 16, where chance is 6 %.
Every value is an own choice (O).
"""

from hardware import hardware, split_names
from ml_collections import ConfigDict


def get_config(names: str = "") -> ConfigDict:
    """`dvae` is the image tokenizer; `contrastive` switches the token and task levels off."""
    variant, row = split_names(names, ("dvae", "contrastive"))
    config = ConfigDict()
    config.seed = 0
    config.batch = 16  # pairs
    config.data = ConfigDict(
        {
            "train": "data/tiny#train",
            "eval": "data/tiny#val",
            "prepare": "python -m cots_jax.prepare pairs --captions=captions.csv "
            "--images=pictures --out=data/tiny",
            "text_length": 8,  # tokens
            "tokenizer": "captions:100",
            "threads": 1,
        }
    )
    config.hardware = hardware(row)
    if not row:
        config.hardware.precision = "float32"  # so that tests find the same numbers everywhere
    if variant == "dvae":
        _tokenizer(config)
    else:
        _retrieval(config)
    if variant == "contrastive":
        config.name = "tiny-contrastive"
        config.image_tokenizer = ""
        for weight in ("mvm", "mlm", "task"):
            config.method[f"weight_{weight}"] = "0"
    return config


def _tokenizer(config: ConfigDict) -> None:
    config.task = "dvae"
    config.name = "tiny-dvae"
    config.model = "dvae-16-8"  # 16 codes on a grid of 2 x 2
    config.duration = "200 steps"
    config.checkpoint_every = "50%"
    config.evaluate_every = "50%"
    config.log_every = "25%"
    config.dvae = ConfigDict({"gumbel_temperature": "1 @ 0%, 0.2 @ 100%", "usage_weight": "10"})
    config.optimizer = ConfigDict({"learning_rate": "1e-2 @ 0%, 0 @ 100%", "weight_decay": 0.0})


def _retrieval(config: ConfigDict) -> None:
    config.name = "tiny"
    config.model = "tiny-16"  # ViT 2 x 32 at 16 px, patch 8; BERT 1 x 32
    config.duration = "40 steps"
    config.checkpoint_every = "5 steps"
    config.evaluate_every = "20 steps"
    config.log_every = "5 steps"
    config.diagnose_every = "20 steps"
    config.image_tokenizer = "runs/tiny-dvae"
    config.image_tokenizer_config = "configs/tiny.py:dvae"
    config.augmentation = ConfigDict({"shift": 0.05, "brightness": 0.1})
    config.method = ConfigDict(
        {
            "queue_length": 24,  # pairs; no multiple of the batch
            "negatives": "queue_and_batch",
            "momentum": "0.9",  # a reference batch
            "reference_batch": 16,  # pairs
            "weight_mvm": "0.05 @ 50%, 0 @ 75%",
            "weight_mlm": "0.3 @ 50%, 0 @ 75%",
            "weight_task": "0 @ 10%, 0.5 @ 40%",
            "alignment": {"teacher": "momentum"},
            "masked": {"text_ratio": 0.5, "text_every": 2, "image_every": 4},
            "filter": {"kappa": 1.0, "momentum": 0.5, "warmup": "25%", "list_dropped": "on"},
        }
    )
    config.optimizer = ConfigDict({"learning_rate": "0 @ 0%, 1e-2 @ 10%, cosine 0 @ 100%"})
