"""Validation of the codec: recordings through it as inference runs it, and their distances."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from voxtral_jax.codec import Codec
from voxtral_jax.codec.run import decoder_stream
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import Params
from voxtral_jax.training import losses
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.data.crops import validation_crops
from voxtral_jax.training.data.manifest import Manifest
from voxtral_jax.training.distributed import fetch
from voxtral_jax.training.encoding import encode_batch, encoder_losses
from voxtral_jax.training.logs import Validation
from voxtral_jax.training.recipe import CodecTraining

ROWS = 8
"""Recordings that are validated together."""


def _reconstruct(
    training: CodecTraining, weights: Params, batch: CropBatch
) -> tuple[Array, Array, dict[str, Array]]:
    """Codes and samples of a batch through the codec as inference runs it, and its distances."""
    config, params, rows = training.config, weights["codec"], batch.samples.shape[0]
    codec = Codec(config)
    key = jax.random.key(0)  # of modes that inference does not have
    encoded = encode_batch(training, weights, batch, key, "all")
    codes = apply(
        codec, params, encoded.latents, method=lambda codec, x: codec.quantizer.encode(x, "jnp")
    )
    stream = decoder_stream(config, rows)
    fake, _ = apply(codec, params, codes, encoded.lengths, stream, method="decode")
    mask = (jnp.arange(fake.shape[1]) < batch.lengths[:, None]).astype(jnp.float32)
    windows = training.losses.stft_windows
    distances = {
        "waveform": losses.waveform_l1(batch.wanted, fake, mask),
        "stft": losses.stft_l1(batch.wanted, fake * mask, windows, jnp.mean(mask)),
    }
    return codes, fake, distances | encoder_losses(training, encoded)[1]


def codec_validation(
    training: CodecTraining, manifest: Manifest, crop: int, heard: int
) -> Callable[[Params], Validation]:
    """What validates weights on the beginning of each recording of a manifest.

    Args:
        training: whose weights.
        manifest: of the recordings.
        crop: samples of each that are looked at.
        heard: how many recordings' audio and codes are logged, the first ones.
    """
    codec = training.config
    batches = list(
        validation_crops(
            manifest,
            rate=codec.sampling_rate,
            crop_samples=crop,
            batch_size=ROWS,
            frame_samples=codec.frame_samples,
        )
    )
    reconstruct = jax.jit(partial(_reconstruct, training))

    def validate(weights: Params) -> Validation:
        audio: dict[str, np.ndarray] = {}
        codes: dict[str, np.ndarray] = {}
        weighed, used = [], []
        for batch in batches:
            made, fake, distances = fetch(reconstruct(weights, batch))
            seconds = float(batch.lengths.sum())
            weighed.append({name: float(x) * seconds for name, x in distances.items()})
            for row, length in enumerate(batch.lengths):
                frames = -(-int(length) // codec.frame_samples)
                used.append(made[row, :frames, 0])
                if len(codes) < heard and length:
                    name = f"utterance-{batch.utterances[row]}"
                    codes[name] = made[row, :frames]
                    audio[name] = fake[row, :length]
        total = sum(float(batch.lengths.sum()) for batch in batches)
        metrics = {name: sum(one[name] for one in weighed) / total for name in weighed[0]}
        counts = np.bincount(np.concatenate(used), minlength=codec.semantic_codebook_size)
        metrics["usage"] = float(np.mean(counts > 0))
        return Validation(metrics, audio, codec.sampling_rate, codes)

    return validate
