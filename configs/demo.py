# SPDX-License-Identifier: Apache-2.0
"""The demo: COTS from scratch on 5,774 emoji pairs, minutes on two cores.

    make demo
    python -m cots_jax.main --config=configs/demo.py:kl            (what it trains: no masks)
    python -m cots_jax.main --config=configs/demo.py:contrastive   (instance level alone)
    python -m cots_jax.main --config=configs/demo.py:clip          (a baseline; see methods.py)
    python -m cots_jax.main --config=configs/demo.py               (all levels)
    python -m cots_jax.main --config=configs/demo.py:long          (all levels, for long)
    python -m cots_jax.main --config=configs/demo.py:clip_kl,long    (for as much time)
    python -m cots_jax.main --config=configs/demo.py:clip_full,long  (too)

The last three are `full-32000`, `clip-kl` and `clip-full-fewer` of `benchmarks.study`;
docs/results.md has what each is worth.

All levels need an image tokenizer: `python -m cots_jax.main --config=configs/dvae.py:emoji
--workdir=runs/demo-dvae` first, a minute.

Every value is an own choice (O), tuned on the emoji_dev splits only; docs/demo_recipe.md has the
table of what was tried.
"""

from hardware import chosen, hardware
from methods import METHODS, set_method
from ml_collections import ConfigDict

KINDS: dict[str, tuple[str, ...]] = {"method": METHODS, "length": ("smoke", "long")}

# Fixed, so that every machine trains the same model; as many as took the time of all levels where
# they were measured; clip_full's 4130 by the ratio of the long ones (docs/results.md).
STEPS = {"kl": 7800, "contrastive": 7800, "clip_kl": 4600, "clip_full": 4130}
LONG_STEPS = {"clip_kl": 14800, "clip_full": 13280}


def get_config(names: str = "") -> ConfigDict:
    """A part or baseline of methods.py in the place of all levels.

    `smoke`: a run of seconds; `long`: as long as the longest runs of the study.
    """
    found = chosen(names, KINDS)
    config = ConfigDict()
    config.name = "demo"
    config.seed = 0
    config.model = "emoji-32"  # ViT 4 x 128 at 32 px, patch 8; BERT 2 x 128
    config.duration = f"{STEPS.get(found['method'], 6000)} steps"
    config.batch = 64  # pairs; smaller batches with more steps did better at equal pictures
    config.checkpoint_every = "10%"
    config.evaluate_every = "10%"
    config.log_every = "1%"
    config.diagnose_every = "5%"
    config.image_tokenizer = "runs/demo-dvae"
    config.image_tokenizer_config = "configs/dvae.py:emoji"
    config.data = ConfigDict(
        {
            "train": "data/emoji#train",
            "eval": "data/emoji#emoji_dev_style,data/emoji#emoji_dev_composition_twemoji,"
            "data/emoji#emoji_dev_composition_openmoji",
            "test": "data/emoji#emoji_style,data/emoji#emoji_composition_twemoji,"
            "data/emoji#emoji_composition_openmoji",
            "prepare": "python -m cots_jax.prepare emoji --out=data/emoji",
            "text_length": 14,  # tokens; 118 of 5,774 names are longer and lose their end
            "tokenizer": "captions:2000",  # WordPiece trained on the names
            "threads": 1,
        }
    )
    config.augmentation = ConfigDict(
        {
            "shift": 0.08,  # of the side
            "scale": 0.15,  # log size
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
        }
    )
    config.method = ConfigDict(
        {
            "queue_length": 1024,  # pairs
            "negatives": "queue_and_batch",  # a queue alone falls into a short cut in small runs
            "temperature": 0.05,
            "momentum": "0.99",  # a reference batch
            "reference_batch": 64,  # pairs
            "weight_instance": "1",
            "weight_mvm": "0.05 @ 60%, 0 @ 60%",
            "weight_mlm": "0.3 @ 30%, 0.1 @ 60%, 0 @ 60%",
            "weight_task": "0 @ 10%, 0.2 @ 10%, 0.5 @ 40%",
            "alignment": {"teacher": "momentum"},
            "masked": {"text_ratio": 0.5, "text_every": 2, "image_every": 8},
            "filter": {"kappa": 3.0, "warmup": "15%"},
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": "0 @ 0%, 1e-3 @ 8%, cosine 0 @ 100%",
            "weight_decay": 0.05,
        }
    )
    config.hardware = hardware(found["hardware row"])
    set_method(config, found["method"])
    _set_length(config, found["method"], found["length"])
    return config


def _set_length(config: ConfigDict, method: str, length: str) -> None:
    if length == "smoke":
        config.name = f"{config.name}-smoke"
        config.duration = "20 steps"
        config.log_every = "5 steps"
    if length == "long":
        config.name = f"{config.name}-long"
        config.duration = f"{LONG_STEPS.get(method, 32000)} steps"
        config.batch = 32
        config.optimizer.learning_rate = "0 @ 0%, 7e-4 @ 8%, cosine 0 @ 100%"
        config.method.masked.text_ratio = 0.8
        config.method.masked.image_ratio = 0.75
    if method in ("clip_kl", "clip_full"):
        # The best of sixteen settings of CLIP's loss, at every length: its negatives are the batch.
        config.batch = 128
        config.optimizer.learning_rate = "0 @ 0%, 1.4e-3 @ 8%, cosine 0 @ 100%"
        config.optimizer.weight_decay = 0.2
    if method == "clip_full":
        # As many hidden texts and pictures a step as `long` has, whose batch is a fourth.
        config.method.masked.text_every = 8
        config.method.masked.image_every = 32
