"""The stages of `train.py`: each reads its settings and puts together what it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from voxtral_jax.training.loop import train
from voxtral_jax.training.stages.codec import codec_task
from voxtral_jax.training.stages.codec_settings import CodecSettings
from voxtral_jax.training.stages.dpo import DpoSettings, dpo_task
from voxtral_jax.training.stages.export import ExportSettings, export
from voxtral_jax.training.stages.speech import SpeechSettings, speech_task
from voxtral_jax.training.stages.tokenize import TokenizeSettings, tokenize
from voxtral_jax.training.task import Task

SETTINGS: Mapping[str, type] = {
    "codec": CodecSettings,
    "tokenize": TokenizeSettings,
    "speech": SpeechSettings,
    "dpo": DpoSettings,
    "export": ExportSettings,
}
"""Stage -> the dataclass of its configuration."""

TASKS: Mapping[str, Callable[..., Task]] = {
    "codec": codec_task,
    "speech": speech_task,
    "dpo": dpo_task,
}
"""Trained stage -> what makes its task of the settings."""


def run(stage: str, settings: Any) -> list[str]:
    """Runs a stage to its end; returns what to tell of it."""
    if stage == "tokenize":
        return tokenize(settings)
    if stage == "export":
        return export(settings)
    state = train(TASKS[stage](settings, read_data=True), settings)
    return [f"{settings.run.out}: {int(state.step):,} steps done"]
