# SPDX-License-Identifier: Apache-2.0
"""The paper's recipe as far as it is known: ViT-B/16 at 384 px, BERT-base, CC4M-sized data.

    python -m cots_jax.main --config=configs/pretrain.py
    python -m cots_jax.main --config=configs/pretrain.py:v5e-256

Tags: R = reported or remembered with good confidence, O = own choice. Nothing here was checked
against the paper's text, and this recipe has not been run to its end by us.
"""

from hardware import hardware, split_names
from ml_collections import ConfigDict


def get_config(names: str = "") -> ConfigDict:
    """A hardware row, or none to take that of the devices found."""
    _, row = split_names(names, ())
    config = ConfigDict()
    config.name = "pretrain"
    config.seed = 0
    config.model = "b16-384"  # ViT-B/16 at 384 px, BERT-base, e = 256; R
    config.duration = "20 epochs"  # of (image, caption) pairs; O
    config.batch = 2048  # pairs; the paper's is not known; O
    config.checkpoint_every = "1000 steps"
    config.evaluate_every = "1 epoch"
    config.log_every = "50 steps"
    config.diagnose_every = "1000 steps"
    config.image_tokenizer = ""  # DALL-E's encoder, if you have it (docs/weights.md); none: no MVM
    config.data = ConfigDict(
        {
            "train": "data/pretrain#train",
            "eval": "data/pretrain#val",
            "prepare": "python -m cots_jax.prepare pairs --captions=captions.jsonl "
            "--images=images.tar --out=data/pretrain",
            "text_length": 80,  # tokens; R
            "tokenizer": "bert-base-uncased",  # WordPiece, 30,522; R
            "threads": 16,
        }
    )
    config.augmentation = ConfigDict(
        {
            "brightness": 0.4,  # R
            "contrast": 0.4,  # R
            "saturation": 0.4,  # R
            "hue": 0.1,  # R
            "jitter_probability": 0.8,  # R
            "grey_probability": 0.2,  # R
        }
    )
    config.method = ConfigDict(
        {
            "queue_length": 12_800,  # pairs; R, low confidence
            "negatives": "queue",  # R
            "same_group": "mask",  # O
            "temperature": 0.05,  # R, low confidence
            "momentum": "0.99",  # R
            "reference_batch": 2048,  # what the momentum is given for; O
            "weight_instance": "1",  # R
            "weight_mvm": "0",  # R is 1; set it where image_tokenizer is named
            "weight_mlm": "1",  # R
            "weight_task": "1",  # R
            "column_chunk": 0,  # O
            "alignment": {"teacher": "online", "direction": "both", "temperature": 0.0},  # O
            "masked": {
                "image_ratio": 0.4,  # R
                "text_ratio": 0.15,  # R
                "image_every": 1,
                "text_every": 1,
                "merge": "add",  # R, low confidence
                "condition": "cls",  # O
                "gradient": "flow",  # O
            },
            "filter": {"state": "on", "kappa": 2.0, "momentum": 0.99, "warmup": "1 epoch"},  # O
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": "5e-5 @ 5 epochs, 0 @ 100%",  # 5e-5 for 5 epochs, then linear; R
            "weight_decay": 0.01,  # O
            "b2": 0.999,  # O
            "clip": 1.0,  # O
        }
    )
    config.hardware = hardware(row)
    return config
