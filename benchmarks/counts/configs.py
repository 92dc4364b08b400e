# SPDX-License-Identifier: Apache-2.0
"""Configs of this repository, in whatever folder a count is started."""

from benchmarks.measure import PROJECT
from cots_jax.arguments import parse_arguments
from cots_jax.schema import Config

CONFIGS = PROJECT / "configs"
TOKENIZERS = {"demo": "dvae.py:emoji", "tiny": "tiny.py:dvae"}


def config_of(name: str, names: str, *keys: str) -> Config:
    """configs/NAME.py:NAMES with these keys; its image tokenizer is one that is still to train."""
    untrained = []
    if name in TOKENIZERS and "contrastive" not in names:
        untrained = [
            "--config.image_tokenizer=untrained",
            f"--config.image_tokenizer_config={CONFIGS / TOKENIZERS[name]}",
        ]
    return parse_arguments([f"--config={CONFIGS / name}.py:{names}", *untrained, *keys], "").config
