"""The model's sizes: frozen dataclasses with the field names of the released `params.json`.

`VoxtralConfig.load(path)` reads the file, `config.save(path)` writes it back. Derived sizes are
properties. Everything is hashable, so a configuration can be a static argument of `jax.jit`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxtral_jax.errors import ConfigError
from voxtral_jax.files import replacing

EMPTY_AUDIO = 0
"""Audio token that stands for no code ([EMPTY_AUDIO]); one such id opens every codebook."""
END_AUDIO = 1
"""Semantic audio token that ends the speech ([END_AUDIO])."""
TOKEN_OFFSET = 2
"""An audio token is its code plus this: the two ids above come first in every codebook."""
PART_SECONDS = 20.0
"""Longest part of a text, as estimated: well within what the model speaks without drifting."""
TABLE_MULTIPLE = 128
"""Audio tables (embedding, semantic logits) are padded to a multiple of this many rows."""


def _padded(rows: int) -> int:
    return math.ceil(rows / TABLE_MULTIPLE) * TABLE_MULTIPLE


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_heads(where: str, n_heads: int, n_kv_heads: int) -> None:
    _check(
        n_heads % n_kv_heads == 0,
        f"{where}: n_heads ({n_heads}) must be a multiple of n_kv_heads ({n_kv_heads})",
    )


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
        _check(not self.use_biases, "acoustic_transformer_args.use_biases: only false is supported")
        _check(self.dim % 2 == 0, "acoustic_transformer_args.dim must be even (time sinusoid)")
        _check(self.n_decoding_steps >= 1, "acoustic_transformer_args.n_decoding_steps must be > 0")
        _check_heads("acoustic_transformer_args", self.n_heads, self.n_kv_heads)


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
        _check(
            self.input_embedding_concat_type == "sum",
            "audio_model_args.input_embedding_concat_type: only 'sum' is supported",
        )
        _check(
            self.audio_encoding_args.num_codebooks == 1 + self.n_acoustic_codebook,
            f"audio_encoding_args.num_codebooks ({self.audio_encoding_args.num_codebooks}) must be "
            f"1 + n_acoustic_codebook ({self.n_acoustic_codebook})",
        )
        _check(self.acoustic_codebook_size >= 2, "acoustic_codebook_size must be 2 or more")

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


def _integers(text: str, where: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{where}: expected integers such as '2,2,2,1', got {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class CodecStage:
    """One stage of the codec: transformer layers at one rate and the convolution beside them."""

    n_layers: int
    window: int
    kernel: int
    stride: int
    has_conv: bool


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Codec (`multimodal.audio_tokenizer_args`)."""

    channels: int = 1
    sampling_rate: int = 24_000
    pretransform_patch_size: int = 240
    patch_proj_kernel_size: int = 7
    semantic_codebook_size: int
    semantic_dim: int
    acoustic_codebook_size: int
    acoustic_dim: int
    conv_weight_norm: bool = True
    causal: bool = True
    attn_sliding_window_size: int = 16
    half_attn_window_upon_downsampling: bool = True
    dim: int
    hidden_dim: int
    head_dim: int
    n_heads: int
    n_kv_heads: int
    qk_norm_eps: float = 1e-6
    qk_norm: bool = True
    use_biases: bool = False
    norm_eps: float = 0.01
    layer_scale: bool = True
    layer_scale_init: float = 0.01
    encoder_transformer_lengths_str: str = "2,2,2,2"
    encoder_convs_kernels_str: str = "4,4,4,3"
    encoder_convs_strides_str: str = "2,2,2,1"
    decoder_transformer_lengths_str: str = "2,2,2,2"
    decoder_convs_kernels_str: str = "3,4,4,4"
    decoder_convs_strides_str: str = "1,2,2,2"
    voice: types.MappingProxyType[str, int] = field(
        default_factory=lambda: types.MappingProxyType({}), hash=False
    )
    """Preset voices of the checkpoint: name -> index."""

    def __post_init__(self) -> None:
        where = "audio_tokenizer_args"
        _check(self.channels == 1, f"{where}.channels: only mono (1) is supported")
        _check(self.causal, f"{where}.causal: only true is supported")
        _check(not self.use_biases, f"{where}.use_biases: only false is supported")
        _check_heads(where, self.n_heads, self.n_kv_heads)
        _check(self.acoustic_codebook_size >= 2, f"{where}.acoustic_codebook_size must be >= 2")
        for side in ("encoder", "decoder"):
            lengths = {
                len(self._list(f"{side}_{part}_str"))
                for part in ("transformer_lengths", "convs_kernels", "convs_strides")
            }
            _check(len(lengths) == 1, f"{where}: the {side}'s lists have different lengths")
            for kernel, stride in zip(
                self._list(f"{side}_convs_kernels_str"),
                self._list(f"{side}_convs_strides_str"),
                strict=True,
            ):
                _check(
                    kernel >= stride >= 1,
                    f"{where}: {side} convolution with kernel {kernel} and stride {stride}",
                )
        _check(
            self._list("decoder_convs_strides_str")[0] == 1,
            f"{where}.decoder_convs_strides_str must start with 1",
        )
        up = math.prod(self._list("decoder_convs_strides_str"))
        _check(
            self.stride == up,
            f"{where}: the encoder divides the rate by {self.stride}, the decoder's factor is {up}",
        )
        _check(
            min(stage.window for stage in self.encoder_stages + self.decoder_stages) >= 1,
            f"{where}.attn_sliding_window_size is too small for the number of strides",
        )

    def _list(self, name: str) -> tuple[int, ...]:
        return _integers(getattr(self, name), f"audio_tokenizer_args.{name}")

    @property
    def latent_dim(self) -> int:
        """Width of the latent: the semantic channels, then the acoustic ones."""
        return self.semantic_dim + self.acoustic_dim

    @property
    def n_codebooks(self) -> int:
        """K: one semantic codebook and one for each acoustic channel."""
        return 1 + self.acoustic_dim

    @property
    def stride(self) -> int:
        """Patches in a frame."""
        return math.prod(self._list("encoder_convs_strides_str"))

    @property
    def frame_samples(self) -> int:
        """Samples in a frame."""
        return self.stride * self.pretransform_patch_size

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.frame_samples

    @property
    def encoder_stages(self) -> tuple[CodecStage, ...]:
        """Encoder stages: transformer at `window`, then the (strided) convolution."""
        window = self.attn_sliding_window_size
        lengths = self._list("encoder_transformer_lengths_str")
        kernels = self._list("encoder_convs_kernels_str")
        strides = self._list("encoder_convs_strides_str")
        stages = []
        for i, (n_layers, kernel, stride) in enumerate(zip(lengths, kernels, strides, strict=True)):
            last = i == len(lengths) - 1
            stages.append(
                CodecStage(
                    n_layers=n_layers,
                    window=window,
                    kernel=kernel,
                    stride=stride,
                    has_conv=last or kernel != 1 or stride != 1,
                )
            )
            if stride > 1 and self.half_attn_window_upon_downsampling:
                window //= 2
        return tuple(stages)

    @property
    def decoder_stages(self) -> tuple[CodecStage, ...]:
        """Decoder stages: the convolution (the first plain, the others transposed), then the
        transformer at `window`, which continues from the encoder's last and doubles upwards."""
        window = self.attn_sliding_window_size
        if self.half_attn_window_upon_downsampling:
            for stride in self._list("encoder_convs_strides_str"):
                window = window // 2 if stride > 1 else window
        lengths = self._list("decoder_transformer_lengths_str")
        kernels = self._list("decoder_convs_kernels_str")
        strides = self._list("decoder_convs_strides_str")
        stages = []
        for i, (n_layers, kernel, stride) in enumerate(zip(lengths, kernels, strides, strict=True)):
            if stride > 1 and self.half_attn_window_upon_downsampling:
                window *= 2
            stages.append(
                CodecStage(
                    n_layers=n_layers,
                    window=window,
                    kernel=kernel,
                    stride=stride,
                    has_conv=i == 0 or kernel != 1 or stride != 1,
                )
            )
        return tuple(stages)


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
        _check(not self.use_biases, "use_biases: only false is supported")
        _check(self.causal, "causal: only true is supported")
        _check(0 <= self.guidance <= 20, "guidance must be from 0 to 20")
        _check(0 <= self.noise_scale <= 2, "noise_scale must be from 0 to 2")
        _check(1 <= self.part_seconds <= 60, "part_seconds must be from 1 to 60")
        _check(self.head_dim % 2 == 0, "head_dim must be even (rotary embedding turns pairs)")
        _check(
            self.tokenizer in ("tekken", "bytes", "phonemes"),
            f"tokenizer: expected 'tekken', 'bytes' or 'phonemes', got {self.tokenizer!r}",
        )
        _check_heads("params.json", self.n_heads, self.n_kv_heads)
        audio, codec = self.audio, self.codec
        _check(
            audio.acoustic_transformer_args.input_dim == self.dim,
            f"acoustic_transformer_args.input_dim ({audio.acoustic_transformer_args.input_dim}) "
            f"must be the decoder's dim ({self.dim})",
        )
        for name, here, there in (
            ("semantic_codebook_size", audio.semantic_codebook_size, codec.semantic_codebook_size),
            ("acoustic_codebook_size", audio.acoustic_codebook_size, codec.acoustic_codebook_size),
            ("n_acoustic_codebook / acoustic_dim", audio.n_acoustic_codebook, codec.acoustic_dim),
        ):
            _check(
                here == there,
                f"{name}: audio_model_args says {here}, audio_tokenizer_args says {there}",
            )
        rate = audio.audio_encoding_args.frame_rate
        _check(
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
        return _build(cls, data, "params.json")

    def to_dict(self) -> dict[str, Any]:
        """The content of `params.json`."""
        return _plain(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `params.json`, replacing it in one step."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def _build(kind: type, data: Any, where: str) -> Any:
    _check(isinstance(data, dict), f"{where}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    values = {}
    for entry in dataclasses.fields(kind):
        place = f"{where}: {entry.name}" if where == "params.json" else f"{where}.{entry.name}"
        if entry.name in data and data[entry.name] is not None:
            values[entry.name] = _value(hints[entry.name], data[entry.name], place)
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{place} is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is types.MappingProxyType:
        _check(isinstance(value, dict), f"{where}: expected an object")
        return types.MappingProxyType({str(k): _value(int, v, where) for k, v in value.items()})
    if hint is float and type(value) is int:
        return float(value)
    _check(type(value) is hint, f"{where}: expected {hint.__name__}, got {value!r} in params.json")
    if hint is int:
        _check(value >= 0, f"{where}: expected a number of 0 or more, got {value}")
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {e.name: _plain(getattr(value, e.name)) for e in dataclasses.fields(value)}
    return dict(value) if isinstance(value, types.MappingProxyType) else value
