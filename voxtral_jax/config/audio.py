"""The decoder's audio side and the flow: `multimodal.audio_model_args` of `params.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from voxtral_jax.config.checks import check, check_heads

EMPTY_AUDIO = 0
"""Audio token that stands for no code ([EMPTY_AUDIO]); one such id opens every codebook."""
END_AUDIO = 1
"""Semantic audio token that ends the speech ([END_AUDIO])."""
TOKEN_OFFSET = 2
"""An audio token is its code plus this: the two ids above come first in every codebook."""
TABLE_MULTIPLE = 128
"""Audio tables (embedding, semantic logits) are padded to a multiple of this many rows."""


def _padded(rows: int) -> int:
    return math.ceil(rows / TABLE_MULTIPLE) * TABLE_MULTIPLE


@dataclass(frozen=True, kw_only=True)
class AcousticTransformerConfig:
    """Flow-matching velocity network (`multimodal.audio_model_args.acoustic_transformer_args`)."""

    input_dim: int
    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    use_biases: bool = False
    rope_theta: float = 10_000.0
    sigma: float = 1e-5
    sigma_max: float = 1.0
    norm_eps: float = 1e-5
    n_decoding_steps: int = 7

    def __post_init__(self) -> None:
        check(not self.use_biases, "acoustic_transformer_args.use_biases: only false is supported")
        check(self.dim % 2 == 0, "acoustic_transformer_args.dim must be even (time sinusoid)")
        check(self.n_decoding_steps >= 1, "acoustic_transformer_args.n_decoding_steps must be > 0")
        check_heads("acoustic_transformer_args", self.n_heads, self.n_kv_heads)


@dataclass(frozen=True, kw_only=True)
class AudioEncodingConfig:
    """How audio is laid out for the decoder (`multimodal.audio_model_args.audio_encoding_args`)."""

    codebook_pattern: str = "parallel"
    interleave_audio_tokens_per_segment: int = 8192
    interleave_text_tokens_per_segment: int = 8192
    single_trailing_segment: bool = False
    num_codebooks: int
    sampling_rate: int
    frame_rate: float


@dataclass(frozen=True, kw_only=True)
class AudioModelConfig:
    """Audio side of the decoder (`multimodal.audio_model_args`)."""

    semantic_codebook_size: int
    acoustic_codebook_size: int
    n_acoustic_codebook: int
    audio_encoding_args: AudioEncodingConfig
    audio_token_id: int = 24
    begin_audio_token_id: int = 25
    input_embedding_concat_type: str = "sum"
    acoustic_transformer_args: AcousticTransformerConfig
    p_uncond: float = 0.0
    text_feature_bugged: bool = False
    condition_dropped_token_id: int = 42

    def __post_init__(self) -> None:
        check(
            self.input_embedding_concat_type == "sum",
            "audio_model_args.input_embedding_concat_type: only 'sum' is supported",
        )
        check(
            self.audio_encoding_args.num_codebooks == 1 + self.n_acoustic_codebook,
            f"audio_encoding_args.num_codebooks ({self.audio_encoding_args.num_codebooks}) must be "
            f"1 + n_acoustic_codebook ({self.n_acoustic_codebook})",
        )
        check(self.acoustic_codebook_size >= 2, "acoustic_codebook_size must be 2 or more")

    @property
    def n_codebooks(self) -> int:
        """K: one semantic codebook and the acoustic ones."""
        return 1 + self.n_acoustic_codebook

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Audio tokens of each codebook, the two special ids included."""
        semantic = self.semantic_codebook_size + TOKEN_OFFSET
        acoustic = self.acoustic_codebook_size + TOKEN_OFFSET
        return (semantic,) + (acoustic,) * self.n_acoustic_codebook

    @property
    def codebook_offsets(self) -> tuple[int, ...]:
        """First row of each codebook in the audio embedding table."""
        sizes = self.codebook_sizes
        return tuple(sum(sizes[:k]) for k in range(len(sizes)))

    @property
    def embedding_rows(self) -> int:
        """Rows of the audio embedding table, padding included."""
        return _padded(sum(self.codebook_sizes))

    @property
    def semantic_rows(self) -> int:
        """Rows of the semantic head, padding included."""
        return _padded(self.codebook_sizes[0])
