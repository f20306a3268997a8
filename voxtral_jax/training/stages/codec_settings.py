"""Settings of `train.py codec`, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from voxtral_jax.config import CodecConfig
from voxtral_jax.errors import ConfigError
from voxtral_jax.training.cycles import taught_layers
from voxtral_jax.training.discriminator import WINDOWS, Kind
from voxtral_jax.training.envelope import EnvelopeSettings
from voxtral_jax.training.pitch import LATENTS
from voxtral_jax.training.quantization import QuantizerSettings
from voxtral_jax.training.recipe import CodecLosses, Part
from voxtral_jax.training.settings import (
    CheckpointSettings,
    Count,
    GuardSettings,
    LogSettings,
    MeshSettings,
    Natural,
    OptimizerSettings,
    Positive,
    RunSettings,
    Share,
    Windows,
)


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """What the codec is trained on.

    Attributes:
        manifest: of recordings (`voxtral_jax.training.data.manifest`).
        validation: another one; the first `logging.samples` of it are logged as audio.
        batch_size: crops in a step, over all devices.
        crop_seconds: of each.
        validation_seconds: of each recording that validation looks at.
        workers: processes that decode audio; 0 is threads of this one.
        most_broken: share of the manifest that may be broken.
    """

    manifest: str
    validation: str | None = None
    batch_size: Count
    crop_seconds: Positive = 2.0
    validation_seconds: Positive = 8.0
    workers: Natural = 0
    most_broken: Share = 0.05


@dataclass(frozen=True, kw_only=True)
class CriticOptimizerSettings(OptimizerSettings):
    """`OptimizerSettings`, whose defaults suit discriminators: naming one leaves the others.

    They are updated as often as the codec, and have no averages: `accumulate` and `average_decay`
    stay as they are.
    """

    learning_rate: Positive = 1e-4
    beta1: Share = 0.5
    beta2: Share = 0.9
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    clip_norm: Positive = 10.0


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """The discriminators: their kind, width, FFT sizes in samples, and their optimizer."""

    kind: Kind = "bins"
    channels: Count = 32
    windows: Windows = WINDOWS
    optimizer: CriticOptimizerSettings = CriticOptimizerSettings()


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """What teaches the semantic code language.

    Attributes:
        kind: "whisper" (as published), "phonemes" (heard in each frame, where the manifest knows
            when they are spoken), "characters" (CTC on transcripts), or "none".
        targets: directory of Whisper targets (`scripts/whisper_targets.py`).
    """

    kind: Literal["whisper", "phonemes", "characters", "none"] = "characters"
    targets: str | None = None


@dataclass(frozen=True, kw_only=True)
class CodecSettings:
    """`codec.toml`.

    Attributes:
        params: `params.json` with the sizes, or a directory that has one.
        start: model or run whose codec to start from.
        part: what learns: "whole", or "encoder" or "decoder" alone, so that the codes of `start`
            keep what they mean. The encoder alone learns by `envelope` and `losses.commitment`.
    """

    params: str
    start: str | None = None
    part: Part = "whole"
    run: RunSettings
    data: CropSettings
    optimizer: OptimizerSettings
    losses: CodecLosses = CodecLosses()
    quantizer: QuantizerSettings = QuantizerSettings()
    discriminators: DiscriminatorSettings = DiscriminatorSettings()
    distillation: DistillationSettings = DistillationSettings()
    envelope: EnvelopeSettings = EnvelopeSettings()
    mesh: MeshSettings = MeshSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    logging: LogSettings = LogSettings()
    guard: GuardSettings = GuardSettings()


def envelope_latents(envelope: EnvelopeSettings, codec: CodecConfig) -> int:
    """How many acoustic latents hold the envelope, the first ones; the last may hold the pitch."""
    return codec.acoustic_dim - (LATENTS if envelope.pitch > 0 else 0)


def check_together(settings: CodecSettings, codec: CodecConfig) -> None:
    """Raises ConfigError unless the settings go together, and with the codec."""
    taught = settings.envelope
    if envelope_latents(taught, codec) < 1:
        raise ConfigError(
            f"envelope.pitch takes {LATENTS} acoustic latents, and the codec has "
            f"{codec.acoustic_dim}; leave it 0"
        )
    for name, chosen in (
        ("quantizer.anchored", settings.quantizer.anchored),
        (f'part = "{settings.part}"', settings.part != "whole"),
    ):
        if chosen and settings.start is None:
            raise ConfigError(f"{name} keeps the codes of `start`; name a model or a run")
    critic = settings.discriminators.optimizer
    if critic.accumulate != 1 or critic.average_decay is not None:
        raise ConfigError(
            "discriminators.optimizer takes no accumulate (that of [optimizer] holds for both) and "
            "no average_decay; leave them out"
        )
    quantizer = settings.quantizer
    if quantizer.acoustic_share + quantizer.noise_share > 1:
        raise ConfigError(
            f"quantizer.acoustic_share = {quantizer.acoustic_share} and noise_share = "
            f"{quantizer.noise_share} are shares of the same samples: they add up to 1 at most"
        )
    if settings.part == "encoder" and taught.weight == 0:
        raise ConfigError('part = "encoder" learns by envelope.weight, which is 0')
    if settings.losses.cycles > 0 and (taught.pitch == 0 or settings.part == "encoder"):
        raise ConfigError(
            "losses.cycles teaches the decoder where in its cycle the voice is: it needs "
            'envelope.pitch, and part = "whole" or "decoder"'
        )
    if settings.losses.cycles > 0 and not taught_layers(codec):
        raise ConfigError(
            "the codec's decoder has no layer that losses.cycles could teach: leave 0"
        )
    if taught.fixed_filters and settings.start is None and not taught.used:
        raise ConfigError("envelope.fixed_filters fixes random ones without envelope.weight")
    learns = taught.weight > 0 and settings.part != "decoder"
    if taught.anew and (settings.start is None or not learns):
        raise ConfigError(
            "envelope.anew is for runs with `start` whose encoder learns by envelope.weight"
        )
