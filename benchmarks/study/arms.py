# SPDX-License-Identifier: Apache-2.0
"""What a study compares: arms, each a config with some keys set, and suites of them."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of training. `keys` are set over the config, as `--config.KEY=value` does it."""

    name: str
    config: str  # FILE:names
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    about: str = ""
    as_long_as: str = ""  # the arm whose time it is given; its steps follow from the cost of both
    group: str = ""  # of settings that are tried for the same thing

    def flags(self, seed: int) -> list[str]:
        """The flags of `python -m cots_jax.main`, less the workdir."""
        keys = {**self.keys, "seed": str(seed)}
        return [f"--config={self.config}", *(f"--config.{k}={v}" for k, v in keys.items())]


def arms_of_settings(
    configs: Mapping[str, str],
    settings: Mapping[str, Sequence[Mapping[str, str]]],
    keys: Mapping[str, str],
) -> tuple[Arm, ...]:
    """An arm for each setting, numbered within its group, over `keys` and the group's config."""
    return tuple(
        Arm(
            f"{group}-{number:0{len(str(len(tried) - 1))}}",
            configs[group],
            {**keys, **setting},
            group=group,
        )
        for group, tried in settings.items()
        for number, setting in enumerate(tried)
    )


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Two arms whose results with equal seeds are subtracted: `first` less `second`."""

    first: str
    second: str


@dataclasses.dataclass(frozen=True)
class Noise:
    """A copy of prepared data in which a share of the training captions is exchanged."""

    folder: str
    of: str
    share: float
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Fold:
    """A copy of prepared data that holds a part of its training pictures out, to choose by.

    It has `train` and `dev` and no other split, so that nothing that is reported can be looked at.
    """

    folder: str
    of: str
    share: float  # of the groups: pictures of one group stay together
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Ladder:
    """One method trained for longer and longer: the arms by length, the shortest first.

    Its plateau is the length that is best on the sets that are looked at during training.
    """

    method: str
    arms: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Suite:
    """Arms that are trained with every seed, and the contrasts that are drawn from them."""

    name: str
    title: str
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    first: tuple[tuple[str, ...], ...] = ()  # commands (flags of `python -m`) that come before
    noise: tuple[Noise, ...] = ()
    folds: tuple[Fold, ...] = ()
    data: str = ""  # FOLDER#SPLIT,… to evaluate on, in the place of the config's
    ladders: tuple[Ladder, ...] = ()
    means: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # of which sets
    quick_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)  # set by --quick

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def quick(self) -> "Suite":
        """The same with runs of seconds: whether it works, not what it finds."""
        arms = tuple(
            dataclasses.replace(arm, keys={**arm.keys, **self.quick_keys}) for arm in self.arms
        )
        return dataclasses.replace(self, name=f"{self.name}-quick", arms=arms)
