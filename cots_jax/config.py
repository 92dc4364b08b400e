# SPDX-License-Identifier: Apache-2.0
"""ConfigDict -> frozen dataclasses, checked once, with errors that name the key and the remedy.

Code below the front doors never sees a ConfigDict. Tags: A = in the paper's abstract, R = reported
elsewhere or remembered, O = own choice.
"""

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from cots_jax.errors import UserError, nearest
from cots_jax.schedule import schedule_values
from cots_jax.schema import OF_THE_RUN, Config, MethodConfig
from cots_jax.switches import (
    Contrast,
    Forward,
    Negatives,
    Switch,
    Task,
    Teacher,
    TemperatureRule,
    Towers,
)


def build_config(mapping: Mapping[str, Any]) -> Config:
    """Checks a nested mapping (or ConfigDict.to_dict()) and freezes it. Raises UserError."""
    config = _build(Config, mapping, "config")
    _check(config)
    return config


def complete(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """All keys with their defaults; each value is checked alone, not yet all of them together."""
    return _build(Config, mapping, "config").to_dict()


def _build(cls: type, mapping: Mapping[str, Any], path: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in mapping:
        if key not in fields:
            raise UserError(f"unknown config key {path}.{key}; {nearest(key, fields, 'keys')}")
    missing = [
        name
        for name, field in fields.items()
        if name not in mapping and field.default is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    values = {key: _value(hints[key], value, f"{path}.{key}") for key, value in mapping.items()}
    return cls(**values)


def _value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{path} = {value!r} should hold keys of its own")
        return _build(typing.cast(type, hint), value, path)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            options = [str(member.value) for member in hint]
            raise UserError(f"{path} = {value!r}; choose one of {', '.join(options)}") from None
    if typing.get_origin(hint) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(f"{path} = {value!r} should be a list of numbers")
        return tuple(_scalar(float, item, path) for item in value)
    return _scalar(hint, value, path)


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if hint is str and isinstance(value, str | int | float):
        return str(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise UserError(f"{path} = {value!r} should be of type {hint.__name__}")


def _check(config: Config) -> None:
    _check_bounds(config)
    _check_schedules(config)
    crop = config.augmentation.crop
    if len(crop) not in (0, 2):
        raise UserError(
            f"config.augmentation.crop = {crop} should hold two numbers, the smallest and the "
            "largest area of a crop, or none"
        )
    _check_temperature(config.method)
    _check_contrast(config)
    _check_chunk(config)
    _check_origin(config)
    _check_frames(config)
    _check_colours(config)
    if config.method.masked.forward is Forward.SHARED:
        _check_shared(config)
    check_rows(config)


def _check_temperature(method: MethodConfig) -> None:
    limits = method.temperature_range
    if method.temperature_rule is TemperatureRule.FIXED:
        return
    if len(limits) != 2 or not 0 < limits[0] <= method.temperature <= limits[1] <= 10:
        raise UserError(
            f"config.method.temperature_range = {limits} should hold two numbers above 0 with "
            f"config.method.temperature = {method.temperature} between them"
        )


def _check_contrast(config: Config) -> None:
    """What stands on momentum towers cannot be had without them: said, rather than ignored."""
    method, contrast = config.method, config.method.contrast
    if config.task is not Task.COTS or contrast is Contrast.MOMENTUM:
        return
    wrong = {
        "method.queue_length=0": method.queue_length != 0,
        "method.filter.state=off": method.filter.state is Switch.ON,
        "method.filter.list_dropped=off": method.filter.list_dropped is Switch.ON,
        "method.soft_targets=0": any(schedule_values(method.soft_targets, "soft_targets")),
        "method.alignment.teacher=online": method.alignment.teacher is Teacher.MOMENTUM
        and any(schedule_values(method.weight_task, "weight_task")),
        "evaluation_towers=online": config.evaluation_towers is Towers.MOMENTUM,
    }
    needed = [f"config.{key}" for key, is_wrong in wrong.items() if is_wrong]
    if needed:
        raise UserError(
            f"config.method.contrast = {contrast} has no momentum towers and no queue: set "
            + ", ".join(needed)
        )


def _check_chunk(config: Config) -> None:
    """A queue is as long as whole chunks; the batch is what it is."""
    method, chunk = config.method, config.method.column_chunk
    if not chunk or config.task is not Task.COTS:
        return
    if method.contrast is Contrast.SIGMOID:
        raise UserError(
            f"config.method.column_chunk = {chunk} would do nothing with config.method.contrast = "
            "sigmoid, whose loss takes all pairs of the batch at once: set it to 0"
        )
    of_batch = method.contrast is Contrast.BATCH or method.negatives is Negatives.QUEUE_AND_BATCH
    if of_batch and config.batch > chunk and config.batch % chunk:
        raise UserError(
            f"config.method.column_chunk = {chunk} does not divide the batch {config.batch}, whose "
            "rows are compared with each other: use one that does, or 0"
        )


def _check_origin(config: Config) -> None:
    init, tokenizer = config.init_from, config.data.tokenizer
    if init.run and (init.image or init.text):
        raise UserError(
            "config.init_from.run has both towers: leave config.init_from.image and .text empty"
        )
    if (tokenizer == OF_THE_RUN) != bool(init.run):
        raise UserError(
            f"config.data.tokenizer = {tokenizer!r} and config.init_from.run = {init.run!r}: a run "
            f"that starts from another one has its words, so both are set or neither; write "
            f"config.data.tokenizer={OF_THE_RUN} and the training folder"
        )


def _check_frames(config: Config) -> None:
    """Codes belong to one picture, so what learns from them takes one frame of a video."""
    frames = config.data.frames
    if frames == 1:
        return
    if config.task is Task.DVAE:
        raise UserError(
            f"config.data.frames = {frames}: an image tokenizer learns from single pictures; set "
            "it to 1, which takes the middle frame of each video"
        )
    if any(schedule_values(config.method.weight_mvm, "config.method.weight_mvm")):
        raise UserError(
            f"config.data.frames = {frames} and config.method.weight_mvm = "
            f"{config.method.weight_mvm!r}: masked vision modelling predicts the codes of one "
            "picture; set config.method.weight_mvm=0, or config.data.frames=1, which takes the "
            "middle frame of each video"
        )


def _check_colours(config: Config) -> None:
    mean, std = config.image_mean, config.image_std
    if len(mean) != len(std) or len(mean) not in (0, 3):
        raise UserError(
            f"config.image_mean = {mean} and config.image_std = {std} should hold three numbers "
            "each, of red, green and blue, or none"
        )
    if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise UserError(
            f"config.image_mean = {mean} and config.image_std = {std} are of colours in 0..1: "
            "every number must lie between 0 and 1, and no std be 0"
        )


def _check_shared(config: Config) -> None:
    if config.augmentation.word_dropout and config.method.masked.text_every == 1:
        raise UserError(
            "config.method.masked.forward = shared hides words of every text, so that "
            "config.augmentation.word_dropout would do nothing: set it to 0, or "
            "config.method.masked.text_every to 2 or more, or take forward=separate"
        )


def _check_bounds(config: Config) -> None:
    method, masked, optimizer = config.method, config.method.masked, config.optimizer
    bounds = {
        "batch": (config.batch, 1, 2**20),
        "seed": (config.seed, 0, 2**31 - 1),
        "method.queue_length": (method.queue_length, 0, 2**27),
        "method.temperature": (method.temperature, 1e-3, 10.0),
        "method.sigmoid_bias": (method.sigmoid_bias, -100.0, 100.0),
        "method.reference_batch": (method.reference_batch, 1, 2**27),
        "method.column_chunk": (method.column_chunk, 0, 2**27),
        "method.alignment.temperature": (method.alignment.temperature, 0.0, 10.0),
        "method.filter.kappa": (method.filter.kappa, 1e-3, 1e6),
        "method.filter.momentum": (method.filter.momentum, 1e-6, 1 - 1e-9),
        "method.masked.image_ratio": (masked.image_ratio, 0.0, 0.95),
        "method.masked.text_ratio": (masked.text_ratio, 0.0, 0.95),
        "method.masked.image_every": (masked.image_every, 1, config.batch),
        "method.masked.text_every": (masked.text_every, 1, config.batch),
        "optimizer.weight_decay": (optimizer.weight_decay, 0.0, 1e6),
        "optimizer.b1": (optimizer.b1, 0.0, 1 - 1e-9),
        "optimizer.b2": (optimizer.b2, 0.0, 1 - 1e-9),
        "optimizer.epsilon": (optimizer.epsilon, 1e-30, 1.0),
        "optimizer.clip": (optimizer.clip, 0.0, 1e6),
        "optimizer.layer_decay": (optimizer.layer_decay, 1e-3, 1.0),
        "optimizer.freeze_image": (optimizer.freeze_image, 0, 1000),
        "optimizer.freeze_text": (optimizer.freeze_text, 0, 1000),
        "data.text_length": (config.data.text_length, 4, 4096),
        "data.threads": (config.data.threads, 1, 1024),
        "data.frames": (config.data.frames, 1, 1024),
        "keep": (config.keep, 1, 10_000),
        "stalled_after": (config.stalled_after, 0.0, 1e7),
        "hardware.chips": (config.hardware.chips, 1, 2**20),
        "hardware.fsdp": (config.hardware.fsdp, 1, 2**20),
        "hardware.tensor": (config.hardware.tensor, 1, 2**20),
        "hardware.accumulate": (config.hardware.accumulate, 1, 2**20),
        "hardware.tokenizer_pieces": (config.hardware.tokenizer_pieces, 1, 2**20),
    }
    for key, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise UserError(f"config.{key} = {value} must lie between {low} and {high}")


def _check_schedules(config: Config) -> None:
    """The values of every schedule; their times can be read only with the data at hand."""
    method, dvae = config.method, config.dvae
    weights = {
        "method.weight_instance": method.weight_instance,
        "method.weight_mvm": method.weight_mvm,
        "method.weight_mlm": method.weight_mlm,
        "method.weight_task": method.weight_task,
    }
    bounds = {
        "optimizer.learning_rate": (config.optimizer.learning_rate, 0.0, 1e6),
        "method.momentum": (method.momentum, 0.0, 1.0),
        "method.soft_targets": (method.soft_targets, 0.0, 1.0),
        **{key: (text, 0.0, 1e6) for key, text in weights.items()},
        "dvae.gumbel_temperature": (dvae.gumbel_temperature, 1e-3, 1e6),
        "dvae.kl_weight": (dvae.kl_weight, 0.0, 1e6),
        "dvae.usage_weight": (dvae.usage_weight, 0.0, 1e6),
    }
    values = {key: schedule_values(text, f"config.{key}") for key, (text, _, _) in bounds.items()}
    for key, (text, low, high) in bounds.items():
        for value in values[key]:
            if not low <= value <= high:
                raise UserError(
                    f"config.{key} = {text!r}: every value must lie between {low} and {high}, and "
                    f"{value} does not"
                )
    if config.task is Task.COTS and not any(any(values[key]) for key in weights):
        raise UserError(
            f"config.{', config.'.join(weights)} are all 0, so nothing would be trained: set one"
        )


def check_rows(config: Config) -> None:
    """The batch must divide over devices, gradient pieces and the rows of the masked passes."""
    hardware = config.hardware
    data = hardware.chips // (hardware.fsdp * hardware.tensor)
    if data * hardware.fsdp * hardware.tensor != hardware.chips:
        raise UserError(
            f"{hardware.chips} chips do not divide over fsdp={hardware.fsdp} x "
            f"tensor={hardware.tensor}: choose config.hardware.fsdp and .tensor that do"
        )
    parts = {
        f"data={data} x fsdp={hardware.fsdp}": data * hardware.fsdp,
        f"accumulate={hardware.accumulate}": hardware.accumulate,
    }
    if hardware.tokenizer_pieces > 1:
        parts[f"tokenizer_pieces={hardware.tokenizer_pieces}"] = hardware.tokenizer_pieces
    if config.task is Task.COTS:
        masked = config.method.masked
        every = math.lcm(masked.image_every, masked.text_every)
        parts[f"every {every}-th row of the masked passes"] = every
    product = 1
    for size in parts.values():
        product *= size
    if config.batch % product:
        down = config.batch // product * product
        near = f"{down} or {down + product}" if down else f"{product}"
        raise UserError(
            f"batch {config.batch} does not divide over {' x '.join(parts)} ({product}): use {near}"
        )
