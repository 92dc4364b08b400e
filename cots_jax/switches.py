# SPDX-License-Identifier: Apache-2.0
"""Every switch of a config: an enum with its tag (R reported or remembered, O own choice)."""

import enum


class Task(enum.StrEnum):
    """What a config trains."""

    COTS = "cots"
    DVAE = "dvae"


class Contrast(enum.StrEnum):
    """What the instance level compares a pair with.

    MOMENTUM: momentum keys, in queues (A). BATCH: the online features of the batch's other pairs,
    which carry gradients, as in CLIP. SIGMOID: the same, each pair judged alone, as in SigLIP.
    """

    MOMENTUM = "momentum"
    BATCH = "batch"
    SIGMOID = "sigmoid"


class Negatives(enum.StrEnum):
    """Where the contrastive negatives come from: the queue (R), or also the batch's keys (O)."""

    QUEUE = "queue"
    QUEUE_AND_BATCH = "queue_and_batch"


class SameGroup(enum.StrEnum):
    """What a column of the same group is to a row (O)."""

    MASK = "mask"
    NEGATIVE = "negative"
    POSITIVE = "positive"


class Teacher(enum.StrEnum):
    """The target row of the KL alignment (O): the online rows, the same held fixed, or momentum."""

    ONLINE = "online"
    STOPPED = "stopped"
    MOMENTUM = "momentum"


class Direction(enum.StrEnum):
    """Which row is drawn towards which (O)."""

    BOTH = "both"
    IMAGE_TO_TEXT = "image_to_text"  # the image-to-text row is the student
    TEXT_TO_IMAGE = "text_to_image"


class Merge(enum.StrEnum):
    """How the paired global feature enters a masked prediction (added: R, low confidence)."""

    ADD = "add"
    CONCAT = "concat"


class Condition(enum.StrEnum):
    """Which global feature of the other modality enters (O)."""

    CLS = "cls"
    JOINT = "joint"


class Gradient(enum.StrEnum):
    """Whether a gradient goes through the other modality's feature (O)."""

    FLOW = "flow"
    STOP = "stop"


class Forward(enum.StrEnum):
    """Which pass of the towers the masked predictions read (O).

    SEPARATE: a pass of their own over masked views of some rows. SHARED: of these rows the masked
    views are the only ones, and every objective reads them.
    """

    SEPARATE = "separate"
    SHARED = "shared"


class FrameMean(enum.StrEnum):
    """Where the features of a video's frames are averaged (averaged: R; where: O).

    JOINT: their unit joint features, and the mean is scaled to length 1 again: every frame counts
    alike, as if it were searched by itself. CLS: the tower's outputs at [CLS], before the
    projection: a frame with a longer vector counts more.
    """

    JOINT = "joint"
    CLS = "cls"


class TokenizerInput(enum.StrEnum):
    """What an online image tokenizer sees: the tower's view, or the same cut unjittered (O)."""

    JITTERED = "jittered"
    CLEAN = "clean"


class MaskedUnit(enum.StrEnum):
    """What a masked text hides: tokens (R, BERT), or words with all their pieces (O)."""

    TOKEN = "token"
    WORD = "word"


class TemperatureRule(enum.StrEnum):
    """Whether the contrastive temperature stays (R) or is learned and clamped (O)."""

    FIXED = "fixed"
    LEARNED = "learned"


class Decayed(enum.StrEnum):
    """What weight decay reaches: kernels and embedding tables, or also biases and norms (O)."""

    MATRICES = "matrices"
    ALL = "all"


class Towers(enum.StrEnum):
    """Which towers an evaluation uses (O)."""

    ONLINE = "online"
    MOMENTUM = "momentum"


class Precision(enum.StrEnum):
    """Matmul policy of the towers; parameters, softmaxes and losses are float32 always.

    BFLOAT16_OPERANDS takes bf16 and keeps float32 results, for CPUs with bf16 matrix units.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    BFLOAT16_OPERANDS = "bfloat16_operands"


class Remat(enum.StrEnum):
    """What of a block the backward pass computes again rather than find in memory (O).

    OFF: nothing. DOTS: all but the results of its projections. ON: the whole block.
    """

    OFF = "off"
    DOTS = "dots"
    ON = "on"


class AttentionForm(enum.StrEnum):
    """How the towers' attention is computed (O).

    WRITTEN_OUT: all scores in memory. FUSED: by a kernel where there is one (models/attention.py),
    under the precision bfloat16 and without a relative bias; else written out.
    """

    WRITTEN_OUT = "written_out"
    FUSED = "fused"


class Switch(enum.StrEnum):
    """On or off, readable on a command line."""

    ON = "on"
    OFF = "off"


class Cache(enum.StrEnum):
    """Where decoded pictures and token ids wait for their batch."""

    MEMORY = "memory"  # all decoded once: a batch is a copy
    NONE = "none"  # read and decoded for every batch
    AUTO = "auto"  # memory where the pictures take less than 2 GiB
