# SPDX-License-Identifier: Apache-2.0
"""The suites by name."""

from benchmarks.study.arms import Arm, Contrast, Noise, Suite
from benchmarks.study.emoji import (
    DEMO,
    EMOJI,
    EMOJI_BASELINES,
    EMOJI_DEMO,
    EMOJI_PACE,
    EMOJI_REMEDIES,
    EMOJI_SUITE,
    EMOJI_TUNING,
    MAKE_EMOJI,
    SMOKE,
)
from benchmarks.study.emoji_on_clip import EMOJI_ON_CLIP
from benchmarks.study.flickr8k import FLICKR8K, FLICKR8K_MINILM, FLICKR8K_TUNING


def _noisy(percent: int) -> str:
    return f"{EMOJI}-noise{percent}" if percent else EMOJI


SHARP = "0.5"  # kappa; of 0.5 and 0.75, on another seed
BLUNT = ("1", "2")  # 2 is the default of configs/pretrain.py


def _noise_arm(percent: int, kappa: str = "") -> Arm:
    """The instance level alone, so that nothing but the filter differs; without kappa, none."""
    keys = {
        "duration": "1600 steps",
        "data.train": f"{_noisy(percent)}#train",
        "diagnose_every": "200%",
        "evaluate_every": "100%",
        "method.filter.state": "on" if kappa else "off",
        "method.filter.list_dropped": "on" if kappa else "off",
        "method.filter.kappa": kappa or SHARP,
        "method.filter.warmup": "15%",
    }
    about = f"{percent} % of the captions exchanged, {f'kappa {kappa}' if kappa else 'no filter'}"
    kind = {"": "plain", SHARP: "filter"}.get(kappa, f"kappa{kappa}")
    name = f"noise{percent}-{kind}"
    return Arm(name, f"{DEMO}:contrastive", keys, about)


NOISE = Suite(
    name="noise",
    title="The adaptive momentum filter against exchanged captions",
    arms=(
        *(_noise_arm(percent, kappa) for percent in (0, 20, 40) for kappa in ("", SHARP)),
        *(_noise_arm(percent, kappa) for percent in (0, 20) for kappa in BLUNT),
    ),
    contrasts=tuple(
        Contrast(f"noise{percent}-filter", f"noise{percent}-plain") for percent in (0, 20, 40)
    )
    + tuple(Contrast(f"noise{percent}-plain", "noise0-plain") for percent in (20, 40))
    + tuple(
        Contrast(f"noise{percent}-kappa{kappa}", f"noise{percent}-plain")
        for percent in (0, 20)
        for kappa in BLUNT
    ),
    first=MAKE_EMOJI,
    noise=tuple(Noise(_noisy(percent), EMOJI, percent / 100) for percent in (20, 40)),
    quick_keys=SMOKE,
)

SUITES = {
    suite.name: suite
    for suite in (
        EMOJI_SUITE,
        EMOJI_TUNING,
        EMOJI_BASELINES,
        EMOJI_REMEDIES,
        EMOJI_PACE,
        EMOJI_DEMO,
        EMOJI_ON_CLIP,
        FLICKR8K,
        FLICKR8K_MINILM,
        FLICKR8K_TUNING,
        NOISE,
    )
}
