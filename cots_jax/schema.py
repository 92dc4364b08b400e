# SPDX-License-Identifier: Apache-2.0
"""What a config may say: frozen dataclasses with their defaults; config.py builds and checks them.

Tags: A = in the paper's abstract, R = reported elsewhere or remembered, O = own choice.
"""

import dataclasses
import enum
from typing import Any

from cots_jax.switches import (
    AttentionForm,
    Cache,
    Condition,
    Contrast,
    Decayed,
    Direction,
    Forward,
    FrameMean,
    Gradient,
    MaskedUnit,
    Merge,
    Negatives,
    Precision,
    Remat,
    SameGroup,
    Switch,
    Task,
    Teacher,
    TemperatureRule,
    TokenizerInput,
    Towers,
)

OF_THE_RUN = "init_from"  # data.tokenizer: that of the run that this one starts from


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Prepared folders as `FOLDER#SPLIT`, several joined by commas."""

    train: str  # FOLDER#SPLIT*3: three times as often; *25%: of all rows (data/weights.py)
    eval: str  # looked at during training; tune on these only
    test: str = ""  # looked at by `evaluate`
    prepare: str = ""  # the command that makes the folders, for the error where they are missing
    text_length: int = 80
    tokenizer: str = "captions:2000"  # `captions:SIZE` trains one; a folder, a name; `init_from`
    cache: Cache = Cache.AUTO
    threads: int = 2
    frames: int = 1  # of a video, t; 1: pictures, and of a video its middle frame


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """On-device augmentation; see data/transforms.py."""

    shift: float = 0.0
    scale: float = 0.0
    crop: tuple[float, ...] = ()
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 1.0
    grey_probability: float = 0.0
    flip_probability: float = 0.0
    fill: float = 1.0
    word_dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Weights to start from: published ones, a file, a folder, or a hub name (weights/load.py).

    run: a training folder of ours, or an exported one, in the place of both.
    """

    run: str = ""
    image: str = ""
    text: str = ""
    allow: str = ""  # pattern of arrays that may be left over


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
    """KL alignment of the two retrieval tasks."""

    direction: Direction = Direction.BOTH
    teacher: Teacher = Teacher.ONLINE
    temperature: float = 0.0  # 0: the contrastive one


@dataclasses.dataclass(frozen=True)
class MaskedConfig:
    """Masked vision-language modelling without a cross-stream network."""

    image_ratio: float = 0.4
    text_ratio: float = 0.15
    image_every: int = 1  # every how many-th row of the batch has a masked picture
    text_every: int = 1
    text_unit: MaskedUnit = MaskedUnit.TOKEN
    forward: Forward = Forward.SEPARATE
    tokenizer_input: TokenizerInput = TokenizerInput.JITTERED
    merge: Merge = Merge.ADD
    condition: Condition = Condition.CLS
    gradient: Gradient = Gradient.FLOW


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Adaptive momentum filter."""

    state: Switch = Switch.ON
    kappa: float = 2.0
    momentum: float = 0.99  # per reference batch of rows of a source
    warmup: str = "15%"
    list_dropped: Switch = Switch.OFF  # in dropped.jsonl, with their similarity


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """COTS. Every weight is a schedule."""

    contrast: Contrast = Contrast.MOMENTUM
    queue_length: int = 12_800
    negatives: Negatives = Negatives.QUEUE
    same_group: SameGroup = SameGroup.MASK
    soft_targets: str = "0"  # a schedule: share of the momentum towers' own row in the target
    sigmoid_bias: float = -10.0  # of contrast = sigmoid, at the start
    temperature: float = 0.05  # at the start, where it is learned
    temperature_rule: TemperatureRule = TemperatureRule.FIXED
    temperature_range: tuple[float, ...] = (0.01, 0.5)  # of a learned one
    momentum: str = "0.99"
    reference_batch: int = 2048
    weight_instance: str = "1"
    weight_mvm: str = "1"
    weight_mlm: str = "1"
    weight_task: str = "1"
    column_chunk: int = 0  # columns a piece, of the queue or the batch; 0 = all at once
    alignment: AlignmentConfig = AlignmentConfig()
    masked: MaskedConfig = MaskedConfig()
    filter: FilterConfig = FilterConfig()


@dataclasses.dataclass(frozen=True)
class DvaeConfigKeys:
    """Training of the discrete VAE; see models/dvae.py and objectives/reconstruction.py."""

    gumbel_temperature: str = "1"
    kl_weight: str = "0"
    usage_weight: str = "0"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW."""

    learning_rate: str = "1e-3"
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-8
    clip: float = 1.0  # of the gradient's norm; 0: none
    decayed: Decayed = Decayed.MATRICES
    layer_decay: float = 1.0  # the rate of a block over that of the block above it
    freeze_image: int = 0  # lowest blocks of the image tower that stay, the embeddings with them
    freeze_text: int = 0


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """A row of configs/hardware.py, resolved."""

    row: str = "cpu"
    chips: int = 1
    fsdp: int = 1
    tensor: int = 1
    precision: Precision = Precision.FLOAT32
    accumulate: int = 1  # gradient pieces a batch
    tokenizer_pieces: int = 1  # and of such a piece, pictures whose codes are made at once
    scan: Switch = Switch.OFF  # scan over layers (compiles faster) or unroll (runs faster)
    remat: Remat = Remat.OFF  # computes parts of blocks again in the backward pass
    attention: AttentionForm = AttentionForm.WRITTEN_OUT  # or fused: by a kernel, in bf16


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, whole."""

    name: str
    data: DataConfig
    model: str
    duration: str
    batch: int
    task: Task = Task.COTS
    seed: int = 0
    checkpoint_every: str = "10%"
    evaluate_every: str = "10%"
    log_every: str = "1%"
    diagnose_every: str = "5%"  # gradient shares of the objectives, health of momentum and queue
    stalled_after: float = 1800.0  # seconds without a batch or a step's end, then exit 75; 0: never
    keep: int = 2  # checkpoints
    keep_every: str = ""  # an interval whose checkpoints stay for good
    keep_best: Switch = Switch.OFF  # the towers that are best on data.eval, too
    mirror: str = ""  # where a copy of the run is kept: gs://BUCKET/NAME, or what else fsspec opens
    image_tokenizer: str = ""  # a trained dVAE workdir, for MVM ids made online
    image_tokenizer_config: str = ""  # the `--config` that trains it, for the error without it
    evaluation_towers: Towers = Towers.ONLINE
    frame_mean: FrameMean = FrameMean.JOINT  # of data.frames above 1
    image_mean: tuple[float, ...] = ()  # of red, green, blue in 0..1; empty: the model's own
    image_std: tuple[float, ...] = ()
    init_from: InitConfig = InitConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    method: MethodConfig = MethodConfig()
    dvae: DvaeConfigKeys = DvaeConfigKeys()
    optimizer: OptimizerConfig = OptimizerConfig()
    hardware: HardwareConfig = HardwareConfig()

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, JSON-able."""
        return dataclasses.asdict(self, dict_factory=_plain)


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, enum.Enum) else value for key, value in items}
