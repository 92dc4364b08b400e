# SPDX-License-Identifier: Apache-2.0
"""The suite `emoji`: does the full objective pay? And the short runs that its settings come from.

Every arm is `configs/demo.py` under one of the names of `configs/methods.py`, so the recipe that is
studied is the recipe that `make demo` trains.
"""

from benchmarks.study.arms import Arm, Contrast, Ladder, Suite

EMOJI = "data/emoji"
DEMO = "configs/demo.py"
DVAE = "runs/demo-dvae"
MAKE_EMOJI = (("cots_jax.prepare", "emoji", f"--out={EMOJI}"),)
MAKE_DVAE = (("cots_jax.main", "--config=configs/dvae.py:emoji", f"--workdir={DVAE}"),)
LOOKED_AT = ",".join(
    f"{EMOJI}#emoji_dev_{name}" for name in ("style", "composition_twemoji", "composition_openmoji")
)
SMOKE = {
    "duration": "24 steps",
    "log_every": "4 steps",
    "evaluate_every": "100%",
    "checkpoint_every": "100%",
    "diagnose_every": "200%",
}
STEPS = 2000  # of 64 pairs: 22 times each pair
LONGER = (1000, 2000, 4000, 8000)
TUNED = 800  # steps of a run that settings are chosen by
QUIET = {"diagnose_every": "200%", "checkpoint_every": "100%"}


def _arm(name: str, method: str, steps: int = STEPS, as_long_as: str = "") -> Arm:
    """`steps` of a method, or as many as take the time of another arm."""
    config = f"{DEMO}:{method}" if method else DEMO
    keys = {"duration": f"{steps} steps", "evaluate_every": "25%", **QUIET}
    return Arm(name, config, keys, as_long_as=as_long_as)


METHODS = {"contrastive": "contrastive", "mvlm": "mvlm", "kl": "kl", "full": ""}
BASELINES = ("clip", "siglip", "albef")


def _ladder(name: str) -> tuple[Arm, ...]:
    return tuple(_arm(_rung(name, steps), METHODS[name], steps) for steps in LONGER)


def _rung(name: str, steps: int) -> str:
    return name if steps == STEPS else f"{name}-{steps}"


EMOJI_SUITE = Suite(
    name="emoji",
    title="What the levels of interaction are worth on emoji",
    arms=(
        *(_arm(name, method) for name, method in METHODS.items()),
        _arm("contrastive-time", "contrastive", as_long_as="full"),
        *(_arm(f"{name}-time", name, as_long_as="full") for name in BASELINES),
        *(
            arm
            for name in ("full", "contrastive")
            for arm in _ladder(name)
            if arm.name not in METHODS
        ),
    ),
    contrasts=(
        *(Contrast(name, "contrastive") for name in ("full", "kl", "mvlm")),
        *(Contrast("full", other) for other in ("kl", "mvlm", "contrastive-time")),
        *(Contrast("full", f"{name}-time") for name in BASELINES),
    ),
    ladders=tuple(
        Ladder(name, tuple(_rung(name, steps) for steps in LONGER))
        for name in ("full", "contrastive")
    ),
    first=(*MAKE_EMOJI, *MAKE_DVAE),
    quick_keys=SMOKE,
)

# Sixteen settings an arm, each one step from the first. `{}` is the recipe as it stood.
_RATE = "optimizer.learning_rate"
_WARM = "0 @ 0%, {} @ 8%, cosine 0 @ 100%"
_MLM, _MVM, _TASK = "method.weight_mlm", "method.weight_mvm", "method.weight_task"
_MASKED, _KL = "method.masked", "method.alignment"
SETTINGS: dict[str, tuple[dict[str, str], ...]] = {
    "contrastive": (
        {},
        {_RATE: _WARM.format("7e-4")},
        {_RATE: _WARM.format("1.5e-3")},
        {"batch": "32", "duration": f"{2 * TUNED} steps", _RATE: _WARM.format("7e-4")},
        {"batch": "128", "duration": f"{TUNED // 2} steps"},
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
}


def _tuning() -> Suite:
    keys = {"duration": f"{TUNED} steps", "evaluate_every": "200%", **QUIET}
    arms = tuple(
        Arm(
            f"{method}-{number:02}",
            f"{DEMO}:{METHODS[method]}" if METHODS[method] else DEMO,
            {**keys, **setting},
            group=method,
        )
        for method, settings in SETTINGS.items()
        for number, setting in enumerate(settings)
    )
    return Suite(
        name="emoji_tuning",
        title="Settings that were tried, on sets that are not reported",
        arms=arms,
        contrasts=(),
        first=(*MAKE_EMOJI, *MAKE_DVAE),
        data=LOOKED_AT,
        quick_keys=SMOKE,
    )


EMOJI_TUNING = _tuning()
