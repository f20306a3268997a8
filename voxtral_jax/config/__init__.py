"""The model's sizes: frozen dataclasses with the field names of the released `params.json`.

`VoxtralConfig.load(path)` reads the file, `config.save(path)` writes it back. Derived sizes are
properties. Everything is hashable, so a configuration can be a static argument of `jax.jit`.
"""

from voxtral_jax.config.audio import (
    EMPTY_AUDIO,
    END_AUDIO,
    TOKEN_OFFSET,
    AcousticTransformerConfig,
    AudioModelConfig,
)
from voxtral_jax.config.codec import CodecConfig
from voxtral_jax.config.model import PART_SECONDS, VoxtralConfig

__all__ = [
    "EMPTY_AUDIO",
    "END_AUDIO",
    "PART_SECONDS",
    "TOKEN_OFFSET",
    "AcousticTransformerConfig",
    "AudioModelConfig",
    "CodecConfig",
    "VoxtralConfig",
]
