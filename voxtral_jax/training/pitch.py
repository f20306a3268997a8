"""The pitch of a frame, as the last acoustic latents may be taught to hold it.

A decoder of patches cannot know the phase that the recording had. Recordings that are to be given
back (`goal` in a manifest; `scripts/corpus/lock.py` makes them) therefore have a whole number of
cycles in each frame: phase begins anew with every frame, and the number says all of it. None of
this is published; `data/nano/README.md` has what it is good for.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from voxtral_jax.config import CodecConfig
from voxtral_jax.kernels.fsq import round_generated
from voxtral_jax.parameters import Params
from voxtral_jax.training.envelope import BEFORE_TANH, BOUND, components_of, envelopes
from voxtral_jax.training.losses import weighted_mean

LOWEST = 80.0
"""Hz of the lowest pitch."""
HIGHEST_HARMONIC = 2000.0
"""Hz up to which harmonics are looked for."""
VOICED = 0.18
"""Share of the spectrum that must be harmonics of a pitch."""
OCTAVE = 0.9
"""Share of the best pitch's harmonics that a higher one needs: what repeats n times in a frame also
repeats n / 2 times."""
PITCHES = 20
"""Pitches that can be told apart, each a cycle more in a frame than the one before."""
TURNS = (3, 7)
"""How often the latents go round from the lowest pitch to the highest."""
LATENTS = 1 + 2 * len(TURNS)
"""Acoustic latents, the last ones, that hold the pitch."""


def cycles_in_frame(frame_rate: float) -> Int[np.ndarray, " pitches"]:
    """Cycles of each pitch in a frame."""
    return math.ceil(LOWEST / frame_rate) + np.arange(PITCHES)


def pitch_of(samples: Float[Array, "B S"], config: CodecConfig) -> Int[Array, "B T"]:
    """Which pitch each frame has, -1 if none; S is a whole number of frames.

    Right for recordings whose pitch is a whole number of cycles in each frame; a mere guess for
    others.
    """
    frames = samples.reshape(samples.shape[0], -1, config.frame_samples)
    cycles = cycles_in_frame(config.frame_rate)
    bins = np.arange(int(HIGHEST_HARMONIC / config.frame_rate) + 1)
    strengths = jnp.abs(jnp.fft.rfft(frames, axis=-1)[..., : len(bins)]) * (bins >= cycles[0] - 1)
    # A circular autocorrelation at one cycle of each pitch.
    turns = np.cos(2 * np.pi * bins[:, None] / cycles).astype(np.float32)
    harmonic = (strengths @ turns) / jnp.maximum(jnp.sum(strengths, -1, keepdims=True), 1e-6)
    best = jnp.max(harmonic, axis=-1, keepdims=True)
    found = jnp.max(jnp.where(harmonic >= OCTAVE * best, np.arange(PITCHES), 0), axis=-1)
    return jnp.where(best[..., 0] >= VOICED, found, -1)


def pitch_latents(samples: Float[Array, "B S"], config: CodecConfig) -> Float[Array, "B T P"]:
    """The pitch as latents after the tanh: how high it is, and points on circles.

    Neighbours lie far apart on the circles, so that a decoder need not tell them by a twentieth of
    one latent. Frames without a voice are in the middle of the circles.
    """
    pitch = pitch_of(samples, config)
    height = 2 * jnp.maximum(pitch, 0) / (PITCHES - 1) - 1
    angles = [2 * np.pi * turns * pitch / PITCHES for turns in TURNS]
    circles = [wave(angle) * (pitch >= 0) for angle in angles for wave in (jnp.cos, jnp.sin)]
    return jnp.clip(jnp.stack([height, *circles], axis=-1), -BOUND, BOUND)


def exact_latents(
    made: Float[Array, "B T D"],
    wanted: Float[Array, "B S"],
    components: Params,
    config: CodecConfig,
    pitch: bool,
) -> Float[Array, "B T A"]:
    """What the acoustic latents, after the tanh, are taught to be.

    Args:
        made: envelopes of the recording.
        wanted: what is to be given back.
        components: of envelopes.
        config: of the codec.
        pitch: whether the last latents hold it.
    """
    exact = components_of(made, components)
    return exact.at[..., -LATENTS:].set(pitch_latents(wanted, config)) if pitch else exact


@partial(jax.jit, static_argnames=("config", "pitch"))
def exact_codes(
    samples: Float[Array, "B S"],
    wanted: Float[Array, "B S"],
    components: Params,
    *,
    config: CodecConfig,
    pitch: bool,
) -> Int[Array, "B T A"]:
    """Acoustic codes (no offset) of `exact_latents`."""
    latents = exact_latents(envelopes(samples, config), wanted, components, config, pitch)
    codes, _ = round_generated(latents, config.acoustic_codebook_size, "jnp")
    return codes


def pitch_loss(
    latents: Float[Array, "B T P"], pitch: Float[Array, "B T P"], mask: Float[Array, "B T"]
) -> Array:
    """Mean distance of latents (before the tanh) from the pitch's, and of both before the tanh."""
    apart = jnp.mean(jnp.abs(jnp.tanh(latents) - pitch), axis=-1)
    before = jnp.mean(jnp.abs(latents - jnp.arctanh(pitch)), axis=-1)
    return weighted_mean(apart + BEFORE_TANH * before, mask)
