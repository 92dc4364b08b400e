# SPDX-License-Identifier: Apache-2.0
"""The paper's recipe as far as it is known: ViT-B/16 at 384 px, BERT-base, CC4M or CC14M.

    python -m cots_jax.main --config=configs/pretrain.py
    python -m cots_jax.main --config=configs/pretrain.py:cc14m,v5e-256
    python -m cots_jax.main --config=configs/pretrain.py:albef,h100-8

Behind the colon stand data (`cc4m`, the default, or `cc14m`), a method (`cots`, the default, or one
of methods.py, for comparison), and a hardware row.

Each source is a folder made by `prepare`, with the codes of its pictures:

    python -m cots_jax.prepare pairs --captions=cc3m.jsonl --images=cc3m.tar --longest_side=512 \\
        --out=data/cc3m --image_tokens=dalle.safetensors

docs/cost.md counts what a pair costs: 836.5 GFLOP. We have not run this to its end, so there is no
expected result; docs/method.md says what others report.

Tags: R = reported or remembered, not checked against the paper's text; O = own choice.
"""

from hardware import chosen, hardware
from methods import METHODS, set_method
from ml_collections import ConfigDict

# As many epochs of each; FOLDER#SPLIT*3 would be three times as many, *20% a fifth of all rows.
SOURCES = {
    "cc4m": ("cc3m", "sbu", "vg", "coco"),  # 4 M pictures, 5.3 M captions; R
    "cc14m": ("cc3m", "cc12m", "sbu", "vg", "coco"),  # 14 M pictures, 15.3 M captions; R
}

# What may stand behind the colon; a hardware row besides.
KINDS: dict[str, tuple[str, ...]] = {
    "data": ("cc4m", "cc14m"),
    "method": ("cots", *METHODS),
}


def get_config(names: str = "") -> ConfigDict:
    """Data, method and hardware row by name; what is left out is cc4m, cots, the devices found."""
    found = chosen(names, KINDS)
    data, method = found["data"] or "cc4m", found["method"] or "cots"
    config = ConfigDict()
    config.name = f"pretrain-{data}"
    config.seed = 0
    config.model = "b16-384"  # ViT-B/16 at 384 px, BERT-base, e = 256; R
    config.duration = "20 epochs"  # of (image, caption) pairs; O
    config.batch = 2048  # pairs; the paper's is not known; O
    config.checkpoint_every = "1000 steps"
    config.evaluate_every = "1 epoch"
    config.log_every = "50 steps"
    config.diagnose_every = "1000 steps"
    config.image_tokenizer = ""  # codes come with the shards; name the encoder to make them here
    config.data = ConfigDict(
        {
            "train": ",".join(f"data/{source}#train" for source in SOURCES[data]),
            "eval": "data/coco#val",  # O
            "prepare": "python -m cots_jax.prepare pairs --captions=captions.jsonl "
            "--images=images.tar --longest_side=512 --out=FOLDER --image_tokens=DALLE",
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
            "temperature_rule": "fixed",  # R
            "temperature_range": (0.01, 0.5),  # of a learned one; O
            "momentum": "0.99",  # R
            "reference_batch": 2048,  # pairs that the momentum is given for; O
            "weight_instance": "1",  # R
            "weight_mvm": "1",  # R
            "weight_mlm": "1",  # R
            "weight_task": "1",  # R
            "column_chunk": 0,  # O
            "alignment": {"teacher": "online", "direction": "both", "temperature": 0.0},  # O
            "masked": {
                "image_ratio": 0.4,  # R
                "text_ratio": 0.15,  # R
                "text_unit": "token",  # R
                "image_every": 1,  # O
                "text_every": 1,  # O
                "forward": "separate",  # O
                "tokenizer_input": "clean",  # as the codes of the shards are; O
                "merge": "add",  # R, low confidence
                "condition": "cls",  # O
                "gradient": "flow",  # O
            },
            "filter": {"state": "on", "kappa": 2.0, "momentum": 0.99, "warmup": "1 epoch"},  # O
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": "5e-5 @ 25%, 0 @ 100%",  # 5e-5 for 5 epochs of 20, then linear; R
            "weight_decay": 0.01,  # O
            "b2": 0.999,  # O
            "clip": 1.0,  # O
        }
    )
    config.hardware = hardware(found["hardware row"])
    if method != "cots":
        set_method(config, method)
        _set_sizes(config, method)
    return config


def _set_sizes(config: ConfigDict, method: str) -> None:
    """The sizes that a baseline was published with."""
    if method == "brivl":
        config.method.queue_length = 9_600  # pairs; R
        config.method.momentum = "0.99"  # R
    if method == "albef":
        config.batch = 512  # pairs; R
        config.method.queue_length = 65_536  # pairs; R
        config.method.momentum = "0.995"  # R
        config.method.reference_batch = 512  # R
    if method in ("clip", "siglip"):
        config.batch = 32_768  # pairs; R
