"""The whole of `params.json`; its fields at the top are the AR decoder's."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxtral_jax.config.audio import AcousticTransformerConfig, AudioModelConfig
from voxtral_jax.config.checks import check, check_heads
from voxtral_jax.config.codec import CodecConfig
from voxtral_jax.config.fields import build, plain
from voxtral_jax.errors import ConfigError
from voxtral_jax.files import replacing

PART_SECONDS = 20.0
"""Longest part of a text, as estimated: well within what the model speaks without drifting."""


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig:
    """`multimodal` of `params.json`."""

    bos_token_id: int = 1
    audio_model_args: AudioModelConfig
    audio_tokenizer_args: CodecConfig


@dataclass(frozen=True, kw_only=True)
class VoxtralConfig:
    """The whole model; the fields at the top are those of the AR decoder, as in `params.json`."""

    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    use_biases: bool = False
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-5
    vocab_size: int
    tied_embeddings: bool = True
    causal: bool = True
    max_position_embeddings: int = 65_536
    max_seq_len: int = 65_536
    model_type: str = "voxtral_tts"
    tokenizer: str = "tekken"
    """Ours: "tekken" (released layout, the default) "bytes" or "phonemes" (small
    models)."""
    guidance: float = 1.2
    """Ours: of the flow, unless a request asks for another one; the released model's by default."""
    noise_scale: float = 1.0
    """Ours: times the noise that the flow starts from, likewise; 1 is what it learned from."""
    part_seconds: float = PART_SECONDS
    """Ours: about how much of a long text is spoken at once: what the model learned from."""
    multimodal: MultimodalConfig

    def __post_init__(self) -> None:
        check(not self.use_biases, "use_biases: only false is supported")
        check(self.causal, "causal: only true is supported")
        check(0 <= self.guidance <= 20, "guidance must be from 0 to 20")
        check(0 <= self.noise_scale <= 2, "noise_scale must be from 0 to 2")
        check(1 <= self.part_seconds <= 60, "part_seconds must be from 1 to 60")
        check(self.head_dim % 2 == 0, "head_dim must be even (rotary embedding turns pairs)")
        check(
            self.tokenizer in ("tekken", "bytes", "phonemes"),
            f"tokenizer: expected 'tekken', 'bytes' or 'phonemes', got {self.tokenizer!r}",
        )
        check_heads("params.json", self.n_heads, self.n_kv_heads)
        audio, codec = self.audio, self.codec
        check(
            audio.acoustic_transformer_args.input_dim == self.dim,
            f"acoustic_transformer_args.input_dim ({audio.acoustic_transformer_args.input_dim}) "
            f"must be the decoder's dim ({self.dim})",
        )
        for name, here, there in (
            ("semantic_codebook_size", audio.semantic_codebook_size, codec.semantic_codebook_size),
            ("acoustic_codebook_size", audio.acoustic_codebook_size, codec.acoustic_codebook_size),
            ("n_acoustic_codebook / acoustic_dim", audio.n_acoustic_codebook, codec.acoustic_dim),
        ):
            check(
                here == there,
                f"{name}: audio_model_args says {here}, audio_tokenizer_args says {there}",
            )
        rate = audio.audio_encoding_args.frame_rate
        check(
            math.isclose(rate, codec.frame_rate, rel_tol=1e-3),
            f"audio_encoding_args.frame_rate is {rate}, the codec's strides make "
            f"{codec.frame_rate}",
        )

    @property
    def audio(self) -> AudioModelConfig:
        """Audio side of the decoder."""
        return self.multimodal.audio_model_args

    @property
    def codec(self) -> CodecConfig:
        """The codec."""
        return self.multimodal.audio_tokenizer_args

    @property
    def flow(self) -> AcousticTransformerConfig:
        """The flow-matching velocity network."""
        return self.multimodal.audio_model_args.acoustic_transformer_args

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> VoxtralConfig:
        """Reads `params.json`, or a directory that holds one.

        Raises:
            ConfigError: the file is missing, not JSON, or a field is missing or of a wrong type.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "params.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist; a model directory needs it") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> VoxtralConfig:
        """Builds the configuration from the parsed `params.json`; unknown fields are ignored."""
        return build(cls, data, "params.json")

    def to_dict(self) -> dict[str, Any]:
        """The content of `params.json`."""
        return plain(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `params.json`, replacing it in one step."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
