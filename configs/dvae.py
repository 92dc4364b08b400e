# SPDX-License-Identifier: Apache-2.0
"""The image tokenizer of small runs: a discrete VAE, trained by the same loop and then frozen.

python -m cots_jax.main --config=configs/dvae.py:emoji --workdir=runs/demo-dvae
"""

from hardware import hardware, split_names
from ml_collections import ConfigDict


def get_config(names: str = "") -> ConfigDict:
    """Variants: `emoji` (32 px, default), `flickr8k`."""
    variant, row = split_names(names, ("emoji", "flickr8k"))
    config = ConfigDict()
    config.task = "dvae"
    config.seed = 0
    config.batch = 64  # pictures
    config.name = "demo-dvae"
    config.model = "dvae-32-8"
    config.duration = "1000 steps"
    config.checkpoint_every = "50%"
    config.evaluate_every = "50%"
    config.log_every = "5%"
    config.data = ConfigDict(
        {
            "train": "data/emoji#train",
            "eval": "data/emoji#emoji_dev_style",
            "prepare": "python -m cots_jax.prepare emoji --out=data/emoji",
            "text_length": 16,
            "tokenizer": "captions:2000",
            "threads": 1,
        }
    )
    config.augmentation = ConfigDict(
        {"shift": 0.08, "scale": 0.15, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    )
    config.dvae = ConfigDict(
        {
            "gumbel_temperature": "1 @ 0%, cosine 0.2 @ 80%",
            "kl_weight": "1",
            "usage_weight": "100",
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": "0 @ 0%, 4e-3 @ 5%, cosine 0 @ 100%",
            "weight_decay": 0.01,
        }
    )
    config.hardware = hardware(row)
    if variant == "flickr8k":
        config.name = "flickr8k-dvae"
        config.data.train = "data/flickr8k#train"
        config.data.eval = "data/flickr8k#val"
        config.data.prepare = (
            "python -m cots_jax.prepare pairs --captions=captions.jsonl --images=images.tar "
            "--out=data/flickr8k"
        )
        config.augmentation = ConfigDict(
            {
                "crop": (0.5, 1.0),
                "flip_probability": 0.5,
                "brightness": 0.3,
                "contrast": 0.3,
                "saturation": 0.3,
                "fill": 0.5,
            }
        )
    return config
