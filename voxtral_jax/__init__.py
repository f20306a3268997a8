"""Voxtral TTS in JAX: expressive multilingual speech with voices cloned from a few seconds.

    import voxtral_jax as vx

    model = vx.load_model("path/to/model")
    speech = vx.synthesize(model, "Hello there.", ref="someone.wav")
    speech.save("hello.wav")

Names are imported when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxtral_jax.checkpoint.export import save_model as save_model
    from voxtral_jax.cloning import make_voice as make_voice
    from voxtral_jax.codec.run import decode_codes as decode_codes
    from voxtral_jax.codec.run import encode_audio as encode_audio
    from voxtral_jax.compilation import enable_compilation_cache as enable_compilation_cache
    from voxtral_jax.config import VoxtralConfig as VoxtralConfig
    from voxtral_jax.errors import VoxtralError as VoxtralError
    from voxtral_jax.model import Model as Model
    from voxtral_jax.model import load_model as load_model
    from voxtral_jax.sharding import make_mesh as make_mesh
    from voxtral_jax.speech import Speech as Speech
    from voxtral_jax.synthesis import stream as stream
    from voxtral_jax.synthesis import synthesize as synthesize
    from voxtral_jax.voice import Voice as Voice

__version__ = "0.1.0"

_PUBLIC = {
    "Model": "model",
    "Speech": "speech",
    "Voice": "voice",
    "VoxtralConfig": "config",
    "VoxtralError": "errors",
    "decode_codes": "codec.run",
    "enable_compilation_cache": "compilation",
    "encode_audio": "codec.run",
    "load_model": "model",
    "make_mesh": "sharding",
    "make_voice": "cloning",
    "save_model": "checkpoint.export",
    "stream": "synthesis",
    "synthesize": "synthesis",
}
"""Public name -> the module that has it."""

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
