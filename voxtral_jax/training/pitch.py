"""The pitch of a frame, as the last acoustic latents may be taught to hold it.

A decoder of patches cannot know the phase that the recording had, and what it cannot know it blurs.
Recordings that are to be given back (`goal` in a manifest; `scripts/corpus/lock.py` makes them)
therefore have a whole number of cycles in each frame: phase begins anew with every frame, and the
pitch at its end and at that of the frame before says all of it. None of this is published;
`data/nano/RUNS.md` has what it is good for.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.config import CodecConfig
from voxtral_jax.kernels.fsq import round_generated
from voxtral_jax.parameters import Params
from voxtral_jax.training.envelope import BEFORE_TANH, BOUND, components_of, envelopes
from voxtral_jax.training.losses import weighted_mean

LOWEST, HIGHEST = 87.5, 325.0
"""Hz at either end of a latent."""
ROUNDS = (250 / 3, 250 / 7)
"""Hz on which two more latents go once round a circle."""
LATENTS = 1 + 2 * len(ROUNDS)
"""Acoustic latents, the last ones, that hold the pitch."""


def pitch_latents(pitch: Float[Array, "*B"]) -> Float[Array, "*B P"]:
    """The pitch as latents after the tanh: how high it is, and points on circles.

    Neighbours lie far apart on the circles, so that a decoder need not tell them by a twentieth of
    one latent. Frames without a voice are in the middle of the circles.

    Args:
        pitch: Hz at the end of frames, 0 in those without a voice.
    """
    voiced = pitch > 0
    above = jnp.where(voiced, pitch - LOWEST, 0)
    height = 2 * above / (HIGHEST - LOWEST) - 1
    angles = [2 * jnp.pi * above / turn for turn in ROUNDS]
    circles = [wave(angle) * voiced for angle in angles for wave in (jnp.cos, jnp.sin)]
    return jnp.clip(jnp.stack([height, *circles], axis=-1), -BOUND, BOUND)


def exact_latents(
    made: Float[Array, "B T D"],
    pitch: Float[Array, "B T"] | None,
    components: Params,
) -> Float[Array, "B T A"]:
    """What the acoustic latents, after the tanh, are taught to be.

    Args:
        made: envelopes of the recording.
        pitch: as in `pitch_latents`; None leaves it out.
        components: of envelopes.
    """
    exact = components_of(made, components)
    return exact if pitch is None else exact.at[..., -LATENTS:].set(pitch_latents(pitch))


@partial(jax.jit, static_argnames="config")
def exact_codes(
    samples: Float[Array, "B S"],
    pitch: Float[Array, "B T"] | None,
    components: Params,
    *,
    config: CodecConfig,
) -> Int[Array, "B T A"]:
    """Acoustic codes (no offset) of `exact_latents`."""
    latents = exact_latents(envelopes(samples, config), pitch, components)
    codes, _ = round_generated(latents, config.acoustic_codebook_size, "jnp")
    return codes


def pitch_loss(
    latents: Float[Array, "B T P"], pitch: Float[Array, "B T P"], mask: Float[Array, "B T"]
) -> Array:
    """Mean distance of latents (before the tanh) from the pitch's, and of both before the tanh."""
    apart = jnp.mean(jnp.abs(jnp.tanh(latents) - pitch), axis=-1)
    before = jnp.mean(jnp.abs(latents - jnp.arctanh(pitch)), axis=-1)
    return weighted_mean(apart + BEFORE_TANH * before, mask)
