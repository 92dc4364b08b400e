# SPDX-License-Identifier: Apache-2.0
"""The suites on emoji: does the full objective pay, which settings were tried, and what might help?

Every arm is `configs/demo.py` under one of the names of `configs/methods.py`; `make demo` trains
that of `kl`.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.study.arms import Arm, Contrast, Ladder, Suite, arms_of_settings

EMOJI = "data/emoji"
DEMO = "configs/demo.py"
DVAE = "runs/demo-dvae"
MAKE_EMOJI = (("cots_jax.prepare", "emoji", f"--out={EMOJI}"),)
MAKE_DVAE = (("cots_jax.main", "--config=configs/dvae.py:emoji", f"--workdir={DVAE}"),)
HELD_OUT = ("style", "composition_twemoji", "composition_openmoji")
LOOKED_AT = ",".join(f"{EMOJI}#emoji_dev_{name}" for name in HELD_OUT)
MEANS = MappingProxyType(
    {
        "mean of the reported sets": tuple(f"emoji_{name}" for name in HELD_OUT),
        "mean of the dev sets": tuple(f"emoji_dev_{name}" for name in HELD_OUT),
    }
)
SMOKE = {
    "duration": "24 steps",
    "log_every": "4 steps",
    "evaluate_every": "100%",
    "checkpoint_every": "100%",
    "diagnose_every": "200%",
}
# What single runs on the sets that are not reported chose so far (docs/results.md); the demo's own
# config follows once the study has shown that it holds.
RATE = "optimizer.learning_rate"
WARM = "0 @ 0%, {} @ 8%, cosine 0 @ 100%"
RECIPE = {
    "batch": "32",
    RATE: WARM.format("7e-4"),
    "method.masked.text_ratio": "0.8",
    "method.masked.image_ratio": "0.75",
}
STEPS = 4000  # of 32 pairs: 22 times each pair
LONG, LONGEST = 16000, 32000
LONGER = (2000, STEPS, 8000, LONG, LONGEST)
TUNED = 1600  # steps of a run that settings are chosen by
QUIET = {"diagnose_every": "200%", "checkpoint_every": "100%"}


def emoji_arm(
    name: str,
    method: str,
    steps: int = STEPS,
    as_long_as: str = "",
    setting: Mapping[str, str] = MappingProxyType({}),
) -> Arm:
    """`steps` of a method, or as many as take the time of another arm."""
    config = f"{DEMO}:{method}" if method else DEMO
    keys = {"duration": f"{steps} steps", "evaluate_every": "25%", **QUIET, **RECIPE, **setting}
    return Arm(name, config, keys, as_long_as=as_long_as)


METHODS = {"contrastive": "contrastive", "mvlm": "mvlm", "kl": "kl", "full": ""}
BASELINES = ("clip", "siglip", "albef")
# For the time of all levels.
TRAINED_LONG = ("contrastive", "kl", *BASELINES)
TRAINED_LONGEST = ("contrastive", "kl")
# The best of the sixteen settings that `emoji_baselines` has of each.
TUNED_BASELINES = {
    "clip": {"batch": "128", RATE: WARM.format("1.4e-3"), "optimizer.weight_decay": "0.2"},
    "siglip": {"batch": "64", RATE: WARM.format("1e-3")},
}
AS_CLIP = ("contrastive", "kl", "full")  # with the best of its settings


def _ladder(name: str) -> tuple[Arm, ...]:
    return tuple(emoji_arm(_rung(name, steps), METHODS[name], steps) for steps in LONGER)


def _rung(name: str, steps: int) -> str:
    return name if steps == STEPS else f"{name}-{steps}"


def _as_long(name: str, steps: int) -> Arm:
    """Of a method as many steps as take the time of so many of all levels."""
    return emoji_arm(f"{name}-{steps}-time", name, as_long_as=f"full-{steps}")


# The arms of each method by their steps; of those without masked passes the time of all levels
# is room for more of them.
LADDERS = {
    "full": tuple(_rung("full", steps) for steps in LONGER),
    "contrastive": tuple(
        name
        for steps in LONGER
        for name in (
            _rung("contrastive", steps),
            *((f"contrastive-{steps}-time",) if steps >= LONG else ()),
        )
    ),
    "kl": ("kl", *(f"kl-{steps}-time" for steps in LONGER if steps >= LONG)),
}


EMOJI_SUITE = Suite(
    name="emoji",
    title="What the levels of interaction are worth on emoji",
    arms=(
        *(emoji_arm(name, method) for name, method in METHODS.items()),
        emoji_arm("contrastive-time", "contrastive", as_long_as="full"),
        *(emoji_arm(f"{name}-time", name, as_long_as="full") for name in BASELINES),
        *(
            arm
            for name in ("full", "contrastive")
            for arm in _ladder(name)
            if arm.name not in METHODS
        ),
        *(_as_long(name, LONG) for name in TRAINED_LONG),
        *(_as_long(name, LONGEST) for name in TRAINED_LONGEST),
        *(
            emoji_arm(f"{name}-tuned-{steps}-time", name, as_long_as=f"full-{steps}", setting=keys)
            for steps in (LONG, LONGEST)
            for name, keys in TUNED_BASELINES.items()
        ),
        # Is it CLIP's loss that wins, or its batch, rate and decay?
        *(
            emoji_arm(
                f"{name}-as-clip-{LONGEST}-time",
                METHODS[name],
                as_long_as=f"full-{LONGEST}",
                setting=TUNED_BASELINES["clip"],
            )
            for name in AS_CLIP
        ),
    ),
    contrasts=(
        *(Contrast(name, "contrastive") for name in ("full", "kl", "mvlm")),
        *(Contrast("full", other) for other in ("kl", "mvlm", "contrastive-time")),
        *(Contrast("full", f"{name}-time") for name in BASELINES),
        *(
            contrast
            for steps, names in ((LONG, TRAINED_LONG), (LONGEST, TRAINED_LONGEST))
            for contrast in (
                Contrast(f"full-{steps}", f"contrastive-{steps}"),
                *(Contrast(f"full-{steps}", f"{name}-{steps}-time") for name in names),
                Contrast(f"kl-{steps}-time", f"contrastive-{steps}-time"),
            )
        ),
        *(
            Contrast(f"{first}-{steps}{time}", f"{name}-tuned-{steps}-time")
            for steps in (LONG, LONGEST)
            for name in TUNED_BASELINES
            for first, time in (("full", ""), ("kl", "-time"), ("contrastive", "-time"))
        ),
        *(
            Contrast(f"{name}-as-clip-{LONGEST}-time", other)
            for name in AS_CLIP
            for other in (f"clip-tuned-{LONGEST}-time", f"full-{LONGEST}")
        ),
    ),
    ladders=tuple(Ladder(name, arms) for name, arms in LADDERS.items()),
    first=(*MAKE_EMOJI, *MAKE_DVAE),
    means=MEANS,
    quick_keys=SMOKE,
)

# Sixteen settings an arm, each one step from the recipe, which is the first. The arms after the
# first keep what that one's settings are about as it is.
_LOSS, _KL, _MASKED = "method.weight_{}", "method.alignment", "method.masked"
_MLM, _MVM, _TASK = (_LOSS.format(name) for name in ("mlm", "mvm", "task"))
_TOKEN: tuple[dict[str, str], ...] = (
    {f"{_MASKED}.text_ratio": "0.15"},
    {f"{_MASKED}.text_ratio": "0.5"},
    {f"{_MASKED}.text_ratio": "0.95"},
    {f"{_MASKED}.image_ratio": "0.4"},
    {_MLM: "0.1 @ 60%, 0 @ 60%"},
    {_MLM: "0.3 @ 90%, 0 @ 100%"},
    {_MVM: "0"},
    {_MVM: "0.2 @ 60%, 0 @ 60%"},
    {f"{_MASKED}.text_every": "4"},
    {f"{_MASKED}.condition": "joint"},
    {f"{_MASKED}.merge": "concat"},
    {f"{_MASKED}.gradient": "stop"},
)
SETTINGS: dict[str, tuple[dict[str, str], ...]] = {
    "contrastive": (
        {},
        {RATE: WARM.format("5e-4")},
        {RATE: WARM.format("1e-3")},
        {"batch": "64", "duration": f"{TUNED // 2} steps", RATE: WARM.format("1e-3")},
        {"batch": "16", "duration": f"{2 * TUNED} steps", RATE: WARM.format("5e-4")},
        {"method.queue_length": "256"},
        {"method.queue_length": "4096"},
        {"method.negatives": "queue"},
        {"method.momentum": "0.95"},
        {"method.momentum": "0.995"},
        {"method.temperature": "0.03"},
        {"method.temperature": "0.07"},
        {"method.temperature_rule": "learned"},
        {"method.same_group": "positive"},
        {"method.filter.state": "off"},
        {"optimizer.weight_decay": "0.2"},
    ),
    "kl": (
        {},
        {_TASK: "0 @ 10%, 0.2 @ 40%"},
        {_TASK: "0 @ 10%, 1 @ 40%"},
        {_TASK: "0 @ 10%, 2 @ 40%"},
        {_TASK: "0.5"},
        {_TASK: "0 @ 50%, 0.5 @ 80%"},
        {_TASK: "0 @ 50%, 1 @ 80%"},
        {_TASK: "0 @ 10%, 0.5 @ 40%, 0 @ 100%"},
        {f"{_KL}.teacher": "online"},
        {f"{_KL}.teacher": "stopped"},
        {f"{_KL}.direction": "image_to_text"},
        {f"{_KL}.direction": "text_to_image"},
        {f"{_KL}.temperature": "0.03"},
        {f"{_KL}.temperature": "0.1"},
        {f"{_KL}.temperature": "0.2"},
        {f"{_KL}.temperature": "0.1", _TASK: "0 @ 10%, 2 @ 40%"},
    ),
    "mvlm": (
        {},
        *_TOKEN,
        {_MLM: "0 @ 20%, 0.3 @ 20%, 0 @ 80%"},
        {f"{_MASKED}.text_every": "4", f"{_MASKED}.image_every": "16"},
        {
            f"{_MASKED}.forward": "shared",
            f"{_MASKED}.text_every": "1",
            f"{_MASKED}.image_every": "1",
        },
    ),
    "full": (
        {},
        *_TOKEN,
        {_TASK: "0 @ 50%, 0.5 @ 80%"},
        {_TASK: "0 @ 10%, 0.2 @ 40%"},
        {f"{_MASKED}.text_every": "4", f"{_MASKED}.image_every": "16"},
    ),
}


def _tuning() -> Suite:
    keys = {"duration": f"{TUNED} steps", "evaluate_every": "200%", **QUIET, **RECIPE}
    configs = {name: f"{DEMO}:{method}" if method else DEMO for name, method in METHODS.items()}
    return Suite(
        name="emoji_tuning",
        title="Settings that were tried, on sets that are not reported",
        arms=arms_of_settings(configs, SETTINGS, keys),
        contrasts=(),
        first=(*MAKE_EMOJI, *MAKE_DVAE),
        means=MEANS,
        data=LOOKED_AT,
        quick_keys=SMOKE,
    )


EMOJI_TUNING = _tuning()

# The baselines' own batch and rate, and what they begin with: sixteen settings each, all for the
# time of the contrast with queues. Their negatives are the batch, so that larger ones may pay.
_FIXED = {"method.temperature_rule": "fixed"}
RATES = {
    "32": ("5e-4", "7e-4", "1e-3"),
    "64": ("7e-4", "1e-3", "1.4e-3"),
    "128": ("1e-3", "1.4e-3", "2e-3"),
    "256": ("1.4e-3", "2e-3", "2.8e-3"),
}
BEGINNINGS: dict[str, tuple[tuple[str, str, dict[str, str]], ...]] = {
    "clip": (
        ("64", "fixed-0.05", {**_FIXED, "method.temperature": "0.05"}),
        ("128", "fixed-0.05", {**_FIXED, "method.temperature": "0.05"}),
        ("128", "fixed-0.07", {**_FIXED, "method.temperature": "0.07"}),
        ("128", "decay-0.2", {"optimizer.weight_decay": "0.2"}),
    ),
    "siglip": tuple((batch, "bias-4", {"method.sigmoid_bias": "-4"}) for batch in RATES),
}


def _baseline(method: str, batch: str, what: str, setting: Mapping[str, str]) -> Arm:
    keys = {"batch": batch, "evaluate_every": "200%", **setting}
    arm = emoji_arm(
        f"{method}-{batch}-{what}", method, TUNED, as_long_as="contrastive", setting=keys
    )
    return dataclasses.replace(arm, group=method)


EMOJI_BASELINES = Suite(
    name="emoji_baselines",
    title="CLIP's and SigLIP's batch and rate at equal time, on sets that are not reported",
    arms=(
        emoji_arm("contrastive", "contrastive", TUNED, setting={"evaluate_every": "200%"}),
        *(
            _baseline(method, batch, rate, {RATE: WARM.format(rate)})
            for method in BEGINNINGS
            for batch, rates in RATES.items()
            for rate in rates
        ),
        *(
            _baseline(method, batch, what, {RATE: WARM.format(RATES[batch][1]), **setting})
            for method, beginnings in BEGINNINGS.items()
            for batch, what, setting in beginnings
        ),
    ),
    contrasts=(),
    first=MAKE_EMOJI,
    means=MEANS,
    data=LOOKED_AT,
    quick_keys=SMOKE,
)

# Why is the contrast with queues behind CLIP's loss in short runs? The keys' age (momentum), the
# queue, or that gradients reach one side of a pair only? CLIP's loss beside it, for as many steps.
_MOMENTUM = "method.momentum"
PACE: dict[str, tuple[str, dict[str, str]]] = {
    "recipe": ("contrastive", {}),
    "momentum-0.9": ("contrastive", {_MOMENTUM: "0.9"}),
    "momentum-0.98": ("contrastive", {_MOMENTUM: "0.98"}),
    "ramp-0.9-0.99-80": ("contrastive", {_MOMENTUM: "0.9 @ 0%, 0.99 @ 80%"}),
    "no-queue": ("contrastive", {"method.queue_length": "0"}),
    "no-queue-0.9": ("contrastive", {"method.queue_length": "0", _MOMENTUM: "0.9"}),
    "learned": ("contrastive", {"method.temperature_rule": "learned"}),
    "clip": ("clip", {}),
}

EMOJI_PACE = Suite(
    name="emoji_pace",
    title="Why the contrast with queues learns slowly in short runs, on sets that are not reported",
    arms=tuple(
        emoji_arm(name, method, TUNED, setting={"evaluate_every": "25%", **keys})
        for name, (method, keys) in PACE.items()
    ),
    contrasts=(),
    first=MAKE_EMOJI,
    means=MEANS,
    data=LOOKED_AT,
    quick_keys=SMOKE,
)

# `shared` has no masked passes: a quarter of the pictures and of the texts are seen masked only.
_SHARED = {
    f"{_MASKED}.forward": "shared",
    f"{_MASKED}.text_every": "4",
    f"{_MASKED}.text_ratio": "0.5",
    f"{_MASKED}.image_every": "4",
    f"{_MASKED}.image_ratio": "0.4",
}
# Remedies, each for itself and at the full length, since short runs mislead about the token level;
# beside the two arms of `emoji` that they are held against, which --earlier need not train again.
REMEDIES: dict[str, tuple[str, dict[str, str]]] = {
    "kl": ("kl", {}),
    "kl-ends": ("kl", {_TASK: "0 @ 10%, 0.2 @ 10%, 0.5 @ 40%, 0.5 @ 60%, 0 @ 60%"}),
    "words": ("", {_MVM: "0"}),
    "patches": ("", {_MLM: "0"}),
    "early": ("", {_MLM: "0.3 @ 30%, 0 @ 30%", _MVM: "0.05 @ 30%, 0 @ 30%"}),
    "words-early": ("", {_MLM: "0.3 @ 30%, 0 @ 30%", _MVM: "0"}),
    "late": ("", {_MLM: "0.3 @ 30%, 0.1 @ 90%, 0 @ 90%", _MVM: "0.05 @ 90%, 0 @ 90%"}),
    "half": ("", {f"{_MASKED}.text_ratio": "0.5", f"{_MASKED}.image_ratio": "0.4"}),
    "no-kl": ("mvlm", {}),
    "shared": ("", _SHARED),
    "shared-words": ("", {**_SHARED, _MVM: "0"}),
    # The best of the contrastive arm's sixteen settings in short runs, and the next.
    "short-queue": ("contrastive", {"method.queue_length": "256"}),
    "kl-short-queue": ("kl", {"method.queue_length": "256"}),
    "sharp": ("contrastive", {"method.temperature": "0.03"}),
    "same-group": ("contrastive", {"method.same_group": "positive"}),
}
_AGAINST = tuple(_rung(name, LONG) for name in ("full", "contrastive"))

EMOJI_REMEDIES = Suite(
    name="emoji_remedies",
    title="What might make the levels pay, on sets that are not reported",
    arms=(
        *map(EMOJI_SUITE.arm, _AGAINST),
        *(emoji_arm(name, method, LONG, setting=keys) for name, (method, keys) in REMEDIES.items()),
    ),
    contrasts=tuple(Contrast(name, other) for name in REMEDIES for other in _AGAINST),
    first=(*MAKE_EMOJI, *MAKE_DVAE),
    means=MEANS,
    data=LOOKED_AT,
    quick_keys=SMOKE,
)


# All levels at the demo's batch and rate, the same with fewer levels (`make demo` trains `demo-kl`)
# and batches of half the size, each for as long, on the sets that settings may be chosen by.
_DEMO_KEYS = {"duration": "6000 steps", "evaluate_every": "25%", **QUIET}
_FEWER = ("kl", "contrastive")
KL_ON_CLIP = {
    "kl": {},
    "kl-whole": {_TASK: "0 @ 10%, 1 @ 40%"},
    "kl-soft": {f"{_KL}.temperature": "0.05"},
    "kl-softer": {f"{_KL}.temperature": "0.1"},
}

EMOJI_DEMO = Suite(
    name="emoji_demo",
    title="The demo's recipe against others at equal time, on sets that are not reported",
    arms=(
        Arm("demo", DEMO, _DEMO_KEYS),
        *(Arm(f"demo-{n}", f"{DEMO}:{n}", _DEMO_KEYS, as_long_as="demo") for n in _FEWER),
        *(emoji_arm(f"small-{n}", METHODS[n], as_long_as="demo") for n in ("full", *_FEWER)),
        Arm("demo-clip", f"{DEMO}:clip", _DEMO_KEYS | TUNED_BASELINES["clip"], as_long_as="demo"),
        *(
            Arm(
                f"demo-clip-{name}",
                f"{DEMO}:clip_kl",
                _DEMO_KEYS | TUNED_BASELINES["clip"] | keys,
                as_long_as="demo",
            )
            for name, keys in KL_ON_CLIP.items()
        ),
    ),
    contrasts=(
        *(Contrast("demo", f"demo-{name}") for name in _FEWER),
        Contrast("demo-kl", "demo-contrastive"),
        Contrast("small-full", "demo"),
        Contrast("small-kl", "demo-kl"),
        *(
            Contrast("demo-clip-kl", other)
            for other in ("demo-kl", "demo-contrastive", "demo-clip")
        ),
        *(Contrast("small-full", f"small-{name}") for name in _FEWER),
        Contrast("small-kl", "small-contrastive"),
    ),
    first=(*MAKE_EMOJI, *MAKE_DVAE),
    means=MEANS,
    data=LOOKED_AT,
    quick_keys=SMOKE,
)
