"""Compiled codec programs, and whole recordings through them in chunks of constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from voxtral_jax.buckets import bucket
from voxtral_jax.codec.model import (
    Codec,
    CodecStream,
    decoder_places,
    encoder_places,
    open_stream,
)
from voxtral_jax.config import CodecConfig
from voxtral_jax.errors import AudioError, CheckpointError, RequestError
from voxtral_jax.nn.module import apply

if TYPE_CHECKING:
    from voxtral_jax.model import Model

LEAST_FRAMES = 8
"""Smallest chunk of a whole recording."""
MOST_FRAMES = 256
"""Largest chunk: about 20 s, whose activations stay under 100 MB for the released codec."""


def opening_frames(config: CodecConfig) -> int:
    """Frames that the first chunk of a stream needs: reflect padding looks ahead by a kernel."""
    return math.ceil(config.patch_proj_kernel_size / config.stride)


@partial(jax.jit, static_argnames=("config",), donate_argnames=("stream",))
def decode_chunk(
    params: Any,
    codes: Int[Array, "B T K"],
    lengths: Int[Array, " B"],
    stream: CodecStream,
    *,
    config: CodecConfig,
) -> tuple[Float[Array, "B S"], CodecStream]:
    """Samples of the next chunk of frames. `params` are folded; `stream` is consumed."""
    return apply(Codec(config), params, codes, lengths, stream, method="decode")


@partial(jax.jit, static_argnames=("config", "kernels"), donate_argnames=("stream",))
def encode_chunk(
    params: Any,
    patches: Float[Array, "B N patch"],
    lengths: Int[Array, " B"],
    stream: CodecStream,
    *,
    config: CodecConfig,
    kernels: str,
) -> tuple[Int[Array, "B T K"], CodecStream]:
    """Codes of the next chunk of patches. `params` are folded; `stream` is consumed."""
    codec = Codec(config)
    latent, stream = apply(codec, params, patches, lengths, stream, method="encode")
    codes = apply(codec, params, latent, method=lambda codec, x: codec.quantizer.encode(x, kernels))
    return codes, stream


def decoder_stream(config: CodecConfig, batch: int) -> CodecStream:
    """State before the first chunk of `batch` streams of codes."""
    return open_stream(decoder_places(config), batch)


def encoder_stream(config: CodecConfig, batch: int) -> CodecStream:
    """State before the first chunk of `batch` streams of audio."""
    return open_stream(encoder_places(config), batch)


def _chunks(frames: int) -> list[tuple[int, int, int]]:
    """(start, frames, padded frames) of the chunks of a recording."""
    starts = range(0, frames, MOST_FRAMES)
    sizes = [min(MOST_FRAMES, frames - start) for start in starts]
    return [(start, n, bucket(n, LEAST_FRAMES)) for start, n in zip(starts, sizes, strict=True)]


def check_codes(codes: np.ndarray, config: CodecConfig) -> None:
    """Checks that these are codes `[frames, K]` of a codec of these sizes.

    Raises:
        RequestError: they have a wrong shape, or one is out of its range.
    """
    if codes.ndim != 2 or codes.shape[1] != config.n_codebooks or not len(codes):
        raise RequestError(f"codes must be [frames, {config.n_codebooks}], got {list(codes.shape)}")
    sizes = np.array(
        [config.semantic_codebook_size] + [config.acoustic_codebook_size] * config.acoustic_dim
    )
    if not np.issubdtype(codes.dtype, np.integer) or (codes < 0).any() or (codes >= sizes).any():
        raise RequestError(
            f"codes must be integers from 0, under {sizes[0]} (semantic) and {sizes[-1]} (acoustic)"
        )


def decode_codes(model: Model, codes: Int[np.ndarray, "frames K"]) -> Float[np.ndarray, " S"]:
    """Samples (float32, `model.sample_rate`) of codes as `encode_audio` makes them.

    Raises:
        RequestError: the codes have a wrong shape, or one is out of its range.
    """
    config = model.config.codec
    try:
        codes = np.asarray(codes)
    except ValueError as error:
        raise RequestError(f"codes must be [frames, {config.n_codebooks}]: {error}") from None
    check_codes(codes, config)
    stream, pieces = decoder_stream(config, 1), []
    for start, count, padded in _chunks(len(codes)):
        chunk = np.zeros((1, padded, codes.shape[1]), np.int32)
        chunk[0, :count] = codes[start : start + count]
        samples, stream = decode_chunk(
            model.codec, chunk, np.array([count], np.int32), stream, config=config
        )
        pieces.append(np.asarray(samples)[0, : count * config.frame_samples])
    return np.concatenate(pieces)


def encode_audio(
    model: Model, samples: Float[np.ndarray, " S"], sample_rate: int
) -> Int[np.ndarray, "frames K"]:
    """Codes of a recording: `[frames, K]` int32, the semantic code first, no offset.

    Args:
        samples: mono `[S]` or `[S, channels]`, of any length.
        sample_rate: in Hz; resampled if it is not the model's.

    Raises:
        CheckpointError: the model has no encoder weights.
        AudioError: there are no samples, or some are not finite.
    """
    from voxtral_jax.audio import resample, to_mono

    require_encoder(model)
    config = model.config.codec
    samples = resample(to_mono(samples), sample_rate, config.sampling_rate)
    if not len(samples) or not np.isfinite(samples).all():
        raise AudioError("the audio is empty or holds samples that are not finite")
    return encode_batch(model.codec, config, [samples], model.kernels)[0]


def encode_batch(
    codec: Any, config: CodecConfig, recordings: Sequence[Float[np.ndarray, " S"]], kernels: str
) -> list[Int[np.ndarray, "frames K"]]:
    """Codes of several recordings, encoded side by side; each as if it were alone.

    Args:
        codec: folded weights, with the encoder.
        recordings: none empty, at the codec's rate; alike in length, or much is padding.
        kernels: see `voxtral_jax.kernels`.
    """
    patch, rows = config.pretransform_patch_size, len(recordings)
    patches = np.array([math.ceil(len(one) / patch) for one in recordings])
    frames = -(-patches // config.stride)
    stream, pieces = encoder_stream(config, rows), []
    for start, count, padded in _chunks(int(frames.max())):
        chunk = np.zeros((rows, padded * config.frame_samples), np.float32)
        for row, samples in enumerate(recordings):
            part = samples[start * config.frame_samples :][: count * config.frame_samples]
            chunk[row, : len(part)] = part
        valid = np.clip(patches - start * config.stride, 0, count * config.stride)
        codes, stream = encode_chunk(
            codec,
            chunk.reshape(rows, -1, patch),
            valid.astype(np.int32),
            stream,
            config=config,
            kernels=kernels,
        )
        pieces.append(np.asarray(codes)[:, :count])
    every = np.concatenate(pieces, axis=1)
    return [every[row, :count] for row, count in enumerate(frames)]


def require_encoder(model: Model) -> None:
    """Raises CheckpointError unless the model can encode recordings."""
    if not model.can_clone:
        raise CheckpointError(
            f"{model.source} has no weights of the codec's encoder, so it cannot use a recording; "
            "supply them with load_model(..., encoder_weights=FILE) or --encoder-weights FILE, "
            "or speak with a preset voice"
        )
