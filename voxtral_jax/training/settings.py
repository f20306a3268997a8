"""Sections that the configurations of all stages share, and how a TOML file becomes one.

    [run]
    out = "runs/nano-codec"
    steps = 100_000

Each table is a frozen dataclass here or beside what it configures; unknown keys, wrong types and
values out of range are errors that name the key. Relative paths are relative to the working
directory.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from voxtral_jax.errors import ConfigError, problems_of

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Dtype = Literal["bfloat16", "float32"]
Windows = Annotated[tuple[Annotated[int, Field(ge=4)], ...], Field(min_length=1)]
"""FFT sizes in samples, whose frames are a quarter of that apart: a sample at least."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every run has.

    Attributes:
        out: directory of checkpoints, logs and samples; a run that finds its own continues.
        steps: training steps; None is one pass over the data.
        seed: of weights, shuffling, crops, noise and modes.
        keep: activations kept for the backward pass (`voxtral_jax.nn.module.REMAT`).
    """

    out: str
    steps: Count | None = None
    seed: Natural = 0
    keep: Literal["all", "products", "none"] = "all"


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Optimizer and schedule, in optax's terms.

    Attributes:
        kind: "adamw", or "muon": matrices of layers by orthogonalised momentum; embeddings, heads,
            convolutions and vectors by AdamW without weight decay.
        matrix_scale: of Muon's learning rate, next to AdamW's; updates are of one size at 1.
        learning_rate: the highest.
        schedule: after the warm-up: constant; cosine down to `final_share`; or "wsd", constant and
            then linearly down to it over the last `decay_share` of the steps.
        accumulate: steps whose gradients are averaged before one update.
        clip_norm: gradients are scaled down to this global norm.
        average_decay: keep an exponential moving average of the weights, which validation and
            export then use.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    matrix_scale: Positive = 1.0
    learning_rate: Positive
    schedule: Literal["constant", "cosine", "wsd"] = "cosine"
    warmup_steps: Natural = 0
    decay_share: Share = 0.2
    final_share: Share = 0.0
    beta1: Share = 0.9
    beta2: Share = 0.95
    epsilon: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Positive = 1.0
    accumulate: Count = 1
    average_decay: Share | None = None


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Devices; `data` None takes all that `fsdp` and `tensor` leave."""

    data: Count | None = None
    fsdp: Count = 1
    tensor: Count = 1


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When the state is written, and what is kept.

    Attributes:
        every_steps: between checkpoints.
        keep: the latest so many.
        keep_every_steps: also keep those at multiples of this.
    """

    every_steps: Count = 1000
    keep: Count = 3
    keep_every_steps: Count | None = None


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is told, and when.

    Attributes:
        every_steps: between lines of metrics.
        validate_every_steps: between validations.
        samples: validation utterances that are logged as audio and pictures.
        tensorboard: write event files.
    """

    every_steps: Count = 20
    validate_every_steps: Count = 1000
    samples: Natural = 4
    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """Steps that would do harm are skipped and counted.

    A step is skipped if its loss or gradients are not finite, or (after `after_steps`) if its loss
    exceeds `spike` times its running mean, or is above a negative one by as much as that would be.

    Attributes:
        most_skipped: the run stops after so many in a row.
    """

    spike: Annotated[float, Field(gt=1)] = 4.0
    after_steps: Natural = 200
    most_skipped: Count = 50


T = TypeVar("T")


def load_settings(kind: type[T], path: Path, overrides: list[str]) -> T:
    """A stage's settings from a TOML file.

    Args:
        kind: the dataclass of the whole file.
        path: the file.
        overrides: `section.key=value`, the value in TOML, or any text where it is none.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, missing or has a wrong value.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give --config a TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    for override in overrides:
        _override(data, override)
    return build_settings(kind, data, str(path))


def build_settings(kind: type[T], data: dict[str, Any], where: str) -> T:
    """Settings from parsed TOML; `where` is named in errors."""
    try:
        return TypeAdapter(_strict(kind)).validate_python(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {problems_of(error)}") from None


def _strict(kind: type[T]) -> type[T]:
    """Marks a dataclass so that pydantic refuses keys that it does not have."""
    kind.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return kind


def _override(data: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{override!r} is no override; write section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = data
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{override!r}: {key} is no table")
    table[keys[-1]] = value
