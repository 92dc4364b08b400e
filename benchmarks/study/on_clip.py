# SPDX-License-Identifier: Apache-2.0
"""Do the levels add to CLIP's loss what they add to the contrast with queues?

Judged by the sets that are not reported, at the length of the longest runs.
"""

from benchmarks.study.arms import Contrast, Suite
from benchmarks.study.emoji import (
    CLIPS_LOSS,
    EMOJI_SUITE,
    LONGEST,
    LOOKED_AT,
    MAKE_DVAE,
    MAKE_EMOJI,
    MEANS,
    METHODS,
    SMOKE,
    emoji_arm,
)

LEVELS = ("kl", "mvlm", "full")
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
    ),
    contrasts=tuple(
        Contrast(f"clip-{name}", other) for name in LEVELS for other in (CLIP_ALONE, FULL)
    ),
    first=(*MAKE_EMOJI, *MAKE_DVAE),
    means=MEANS,
    data=LOOKED_AT,
    quick_keys=SMOKE,
)
