"""The codec: `multimodal.audio_tokenizer_args` of `params.json`."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass, field

from voxtral_jax.config.checks import check, check_heads
from voxtral_jax.errors import ConfigError


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
        check(self.channels == 1, f"{where}.channels: only mono (1) is supported")
        check(self.causal, f"{where}.causal: only true is supported")
        check(not self.use_biases, f"{where}.use_biases: only false is supported")
        check_heads(where, self.n_heads, self.n_kv_heads)
        patch = self.pretransform_patch_size
        check(patch >= 1, f"{where}.pretransform_patch_size must be 1 or more, got {patch}")
        check(self.acoustic_codebook_size >= 2, f"{where}.acoustic_codebook_size must be >= 2")
        for side in ("encoder", "decoder"):
            lengths = {
                len(self._list(f"{side}_{part}_str"))
                for part in ("transformer_lengths", "convs_kernels", "convs_strides")
            }
            check(len(lengths) == 1, f"{where}: the {side}'s lists have different lengths")
            for kernel, stride in zip(
                self._list(f"{side}_convs_kernels_str"),
                self._list(f"{side}_convs_strides_str"),
                strict=True,
            ):
                check(
                    kernel >= stride >= 1,
                    f"{where}: {side} convolution with kernel {kernel} and stride {stride}",
                )
        check(
            self._list("decoder_convs_strides_str")[0] == 1,
            f"{where}.decoder_convs_strides_str must start with 1",
        )
        up = math.prod(self._list("decoder_convs_strides_str"))
        check(
            self.stride == up,
            f"{where}: the encoder divides the rate by {self.stride}, the decoder's factor is {up}",
        )
        check(
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
        windows = self._encoder_windows()
        return self._stages("encoder", windows[:-1], always_conv=len(windows) - 2)

    @property
    def decoder_stages(self) -> tuple[CodecStage, ...]:
        """Decoder stages: the convolution (the first plain, the others transposed), then the
        transformer at `window`, which continues from the encoder's last and doubles upwards."""
        window, windows = self._encoder_windows()[-1], []
        for stride in self._list("decoder_convs_strides_str"):
            window = window * 2 if self._rescales(stride) else window
            windows.append(window)
        return self._stages("decoder", windows, always_conv=0)

    def _encoder_windows(self) -> list[int]:
        """Window of each encoder stage, and the one behind the last."""
        windows = [self.attn_sliding_window_size]
        for stride in self._list("encoder_convs_strides_str"):
            windows.append(windows[-1] // 2 if self._rescales(stride) else windows[-1])
        return windows

    def _rescales(self, stride: int) -> bool:
        return stride > 1 and self.half_attn_window_upon_downsampling

    def _stages(self, side: str, windows: list[int], always_conv: int) -> tuple[CodecStage, ...]:
        """Stages of one side; that at `always_conv` has its convolution even if it is 1 to 1."""
        lengths, kernels, strides = (
            self._list(f"{side}_{part}_str")
            for part in ("transformer_lengths", "convs_kernels", "convs_strides")
        )
        return tuple(
            CodecStage(
                n_layers=n_layers,
                window=window,
                kernel=kernel,
                stride=stride,
                has_conv=i == always_conv or kernel != 1 or stride != 1,
            )
            for i, (n_layers, window, kernel, stride) in enumerate(
                zip(lengths, windows, kernels, strides, strict=True)
            )
        )


def _integers(text: str, where: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{where}: expected integers such as '2,2,2,1', got {text!r}") from None
