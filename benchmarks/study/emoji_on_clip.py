# SPDX-License-Identifier: Apache-2.0
"""Do the levels add to CLIP's loss what they add to the contrast with queues?

Judged by the sets that are not reported, at the length of the longest runs.
"""

from benchmarks.study.arms import Contrast, Suite
from benchmarks.study.emoji import (
    EMOJI_SUITE,
    LONGEST,
    LOOKED_AT,
    MAKE_DVAE,
    MAKE_EMOJI,
    MEANS,
    METHODS,
    SMOKE,
    TUNED_BASELINES,
    emoji_arm,
)

# What `clip_kl` of configs/methods.py sets, which has no masked passes, with the best of the
# settings of CLIP's loss: without momentum towers the KL's teacher is the other row, held fixed.
CLIPS_LOSS = {
    "method.contrast": "batch",
    "method.queue_length": "0",
    "method.filter.state": "off",
    "method.temperature_rule": "learned",
    "method.temperature": "0.07",
    "method.alignment.teacher": "stopped",
    **TUNED_BASELINES["clip"],
}
LEVELS = ("kl", "mvlm", "full")
# A step hides as many texts and pictures as the recipe's, whose batch is a fourth.
FEWER_MASKED = {"method.masked.text_every": "8", "method.masked.image_every": "32"}
ALL_FEWER = "clip-full-fewer"
FULL, CLIP_ALONE = f"full-{LONGEST}", f"clip-tuned-{LONGEST}-time"

EMOJI_ON_CLIP = Suite(
    name="emoji_on_clip",
    title="The levels on top of CLIP's loss at equal time, on sets that are not reported",
    arms=(
        *map(EMOJI_SUITE.arm, (FULL, CLIP_ALONE)),
        *(
            emoji_arm(f"clip-{name}", METHODS[name], as_long_as=FULL, setting=CLIPS_LOSS)
            for name in LEVELS
        ),
        emoji_arm(ALL_FEWER, "", as_long_as=FULL, setting={**CLIPS_LOSS, **FEWER_MASKED}),
    ),
    contrasts=tuple(
        Contrast(name, other)
        for name in (*(f"clip-{level}" for level in LEVELS), ALL_FEWER)
        for other in (CLIP_ALONE, FULL, "clip-kl")
        if name != other
    ),
    first=(*MAKE_EMOJI, *MAKE_DVAE),
    means=MEANS,
    data=LOOKED_AT,
    quick_keys=SMOKE,
)
