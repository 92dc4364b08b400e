# SPDX-License-Identifier: Apache-2.0
"""`--config=FILE:names`, `--config.KEY=value` and the other flags of the training door."""

import ast
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from cots_jax.config import build_config, complete
from cots_jax.errors import WrongUseError, nearest
from cots_jax.schema import Config
from cots_jax.switches import Switch

FLAGS = ("--config", "--workdir", "--profile", "--replay", "--deterministic")
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the user asked for."""

    config: Config
    workdir: Path
    profile: str = ""
    replay: str = ""


def parse_arguments(argv: Sequence[str], usage: str) -> Arguments:
    """Reads the flags of `main`. Raises WrongUseError, or UserError from the config itself.

    --help prints the usage and leaves with 0, as argparse does at the other doors.
    """
    told, overrides = dict.fromkeys(FLAGS, ""), {}
    for flag in argv:
        name, equals, value = flag.partition("=")
        if flag in ("-h", "--help"):
            print(usage)
            sys.exit(0)
        if name in FLAGS and equals:
            told[name] = value
        elif name.startswith("--config.") and equals:
            overrides[name.removeprefix("--config.")] = value
        else:
            known = [*FLAGS, "--config.KEY"]
            raise WrongUseError(
                f"unknown flag {flag!r} (write --name=value); {nearest(name, known, 'flags')}"
            )
    if told["--deterministic"] not in ("", *Switch):
        raise WrongUseError("--deterministic is on or off")
    if told["--deterministic"] == Switch.ON:  # before the config asks which devices there are
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    if not told["--config"]:
        raise WrongUseError(f"--config is missing. {usage.splitlines()[0]}")
    # All keys with their defaults, so that those the file leaves out can be set as well.
    mapping = ml_collections.ConfigDict(complete(load_config(told["--config"]).to_dict()))
    for key, value in overrides.items():
        override(mapping, key, value)
    config = build_config(mapping.to_dict())
    workdir = Path(told["--workdir"] or f"runs/{config.name}")
    return Arguments(config, workdir, told["--profile"], told["--replay"])


def load_config(spec: str) -> ml_collections.ConfigDict:
    """Runs `get_config(names)` of a config file; `spec` is FILE or FILE:names."""
    file, _, names = spec.partition(":")
    path = Path(file)
    if not path.is_file():
        here = [str(p) for p in sorted(Path("configs").glob("*.py"))] or ["none in ./configs"]
        raise WrongUseError(f"there is no config file {file}; {nearest(file, here, 'configs')}")
    get_config: Callable[[str], Any] | None = getattr(_import(path), "get_config", None)
    if get_config is None:
        raise WrongUseError(f"{file} has no function get_config(names)")
    try:
        return get_config(names)
    except ValueError as error:  # how configs refuse a name, without importing this package
        raise WrongUseError(f"--config={spec}: {error}") from error


def override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    """Sets a dotted key that exists. Raises WrongUseError that names the nearest keys."""
    flat = flat_keys(config)
    if key not in flat:
        raise WrongUseError(f"unknown config key {key!r}; {nearest(key, flat, 'keys')}")
    *above, last = key.split(".")
    for name in above:
        config = config[name]
    old, new = config[last], _read(text)
    if isinstance(old, str):
        new = text
    elif isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        new = float(new)
    elif not isinstance(new, type(old)) or isinstance(new, bool) != isinstance(old, bool):
        raise WrongUseError(f"config key {key} = {text!r} should be of type {type(old).__name__}")
    config[last] = new


def flat_keys(config: ml_collections.ConfigDict, above: str = "") -> list[str]:
    """All dotted keys that hold a value."""
    keys: list[str] = []
    for name, value in config.items():
        inside = isinstance(value, ml_collections.ConfigDict)
        keys += flat_keys(value, f"{above}{name}.") if inside else [f"{above}{name}"]
    return keys


def _read(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _import(path: Path) -> Any:
    # The folder of the config is importable, so that configs share tables (hardware.py).
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise WrongUseError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
