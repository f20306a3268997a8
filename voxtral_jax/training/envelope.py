"""What the acoustic latents may be taught to hold: the spectral envelope of their frame.

An encoder that learns only through the decoder learns slowly. Here a frame's log mel spectrum,
without its harmonics, is written in its first principal components, as many as there are acoustic
codes. The latents learn them, some rows of each batch are decoded from the exact ones, and the
encoder starts as a mel filterbank (`filterbank.py`). None of this is published;
`data/nano/RUNS.md` has what it is good for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from voxtral_jax.checkpoint.weights import read_tensors
from voxtral_jax.codec.model import CodecTransformer, Place, encoder_places
from voxtral_jax.config import CodecConfig
from voxtral_jax.errors import CheckpointError
from voxtral_jax.parameters import Params
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.losses import weighted_mean
from voxtral_jax.training.settings import Count, Share
from voxtral_jax.training.spectrum import MEL_FLOOR, magnitudes, mel_bands

WINDOW, BANDS = 512, 64
"""Samples that a spectrum looks at, and mel bands that it has."""
HOPS_PER_PATCH = 2
"""Spectra in each patch of the codec: one every 5 ms."""
SMOOTH = 250.0
"""Hz over which power is averaged: harmonics would take components that envelopes need."""
SPREAD = 2.5
"""Standard deviations of a component that span its codes, to either side."""
BOUND = 0.96
"""Largest component that is taught: beyond it tanh is all but flat."""
BEFORE_TANH = 0.3
"""Weight of the distance before the tanh: without it, latents that saturate never come back."""


@dataclass(frozen=True, kw_only=True)
class EnvelopeSettings:
    """How the acoustic latents are taught.

    Attributes:
        weight: of the loss. Where it is 0 and no components are named, all of this is left out, as
            published.
        exact_share: of samples that are decoded from exact components, not from their latents.
        crops: from which the components are found when the run starts.
        components: a file of them (`mean` and `basis`, safetensors) in the place of such: latents
            keep the meaning that they had for the codec that one goes on from.
        pitch: weight of the pitch, which the last latents then hold; 0 leaves it out.
        early: weight of what the transformers before each downsampling are taught: the spectra
            that end with their steps, by heads that are not kept. What they lose no later one can
            know.
        fixed_filters: the encoder's first convolution is the filterbank, also where the run goes on
            from a codec, and stays it: filters that learn leak, and hide what is quiet.
        anew: the transformer that hears the filters begins anew where the run goes on from a codec:
            one that grew up with others does not find what it lost.
    """

    weight: float = 0.0
    exact_share: Share = 0.25
    crops: Count = 512
    components: str | None = None
    pitch: float = 0.0
    early: float = 0.0
    fixed_filters: bool = False
    anew: bool = False

    @property
    def used(self) -> bool:
        """Whether there are components."""
        return self.weight > 0 or self.components is not None


@cache
def smooth_bands(rate: int) -> Float[np.ndarray, "bands bins"]:
    """Weights of mel bands over the power in the bins of a window, averaged over `SMOOTH` Hz."""
    bins = WINDOW // 2 + 1
    half = SMOOTH * WINDOW / rate / 2
    at = np.arange(bins)[:, None]
    weights = np.zeros((bins, bins))
    for mirrored in (at, -at, 2 * (bins - 1) - at):  # what lies beyond either end
        low = np.maximum(mirrored - 0.5, np.arange(bins) - half)
        high = np.minimum(mirrored + 0.5, np.arange(bins) + half)
        weights += np.maximum(high - low, 0)
    return (mel_bands(rate, WINDOW, BANDS) @ (weights / weights.sum(axis=0)).T).astype(np.float32)


def envelopes(samples: Float[Array, "B S"], config: CodecConfig) -> Float[Array, "B T D"]:
    """Log10 mel spectra of each frame, one after the other; S is a whole number of frames."""
    hop = config.pretransform_patch_size // HOPS_PER_PATCH
    power = magnitudes(samples, WINDOW, hop) ** 2 @ smooth_bands(config.sampling_rate).T
    logs = jnp.log10(jnp.maximum(power, MEL_FLOOR**2)) / 2
    return logs.reshape(samples.shape[0], samples.shape[1] // config.frame_samples, -1)


def no_components(config: CodecConfig) -> Params:
    """Zeros in the shapes of `find_components`."""
    width = BANDS * HOPS_PER_PATCH * config.stride
    return {"mean": jnp.zeros(width), "basis": jnp.zeros((config.acoustic_dim, width))}


def find_components(
    batches: Iterable[CropBatch], config: CodecConfig, count: int | None = None
) -> dict[str, np.ndarray]:
    """Principal components of the frames of some batches.

    Args:
        batches: of recordings.
        config: of the codec.
        count: how many latents hold one, the first ones; None is all of them.

    Returns:
        `mean` `[D]`, and `basis` `[A, D]`: what a component of 1 adds to it. float32.
    """
    make = jax.jit(envelopes, static_argnums=1)
    found = []
    for batch in batches:
        made = np.asarray(make(batch.samples, config))
        real = np.arange(made.shape[1]) < -(-batch.lengths // config.frame_samples)[:, None]
        found.append(made[real])
    frames = np.concatenate(found)
    mean = frames.mean(axis=0)
    _, values, axes = np.linalg.svd(frames - mean, full_matrices=False)
    basis = np.zeros((config.acoustic_dim, frames.shape[1]), np.float32)
    count = min(len(axes), config.acoustic_dim if count is None else count)
    deviations = values[:count] / np.sqrt(len(frames))
    basis[:count] = SPREAD * deviations[:, None] * axes[:count]
    return {"mean": mean.astype(np.float32), "basis": basis}


def read_components(file: Path, config: CodecConfig) -> dict[str, np.ndarray]:
    """Components from a file.

    Raises:
        CheckpointError: it cannot be read, or is of another codec.
    """
    found = read_tensors(file)
    for name, leaf in no_components(config).items():
        if name not in found or found[name].shape != leaf.shape:
            raise CheckpointError(
                f"{file} is no file of envelope components of this codec: expected {name!r} of "
                f"shape {list(leaf.shape)}"
            )
    return {name: found[name].astype(np.float32) for name in no_components(config)}


def components_of(made: Float[Array, "B T D"], components: Params) -> Float[Array, "B T A"]:
    """The components of envelopes, bounded so that a latent can hold them."""
    basis = components["basis"]
    products = basis @ basis.T
    unused = jnp.diag(jnp.diag(products) == 0)
    found = (made - components["mean"]) @ basis.T @ jnp.linalg.inv(products + unused)
    return jnp.clip(found, -BOUND, BOUND)


def envelope_loss(
    acoustic: Float[Array, "B T A"],
    made: Float[Array, "B T D"],
    exact: Float[Array, "B T A"],
    components: Params,
    mask: Float[Array, "B T"],
) -> Array:
    """Mean distance of the envelopes that latents name, and of latents before the tanh.

    Args:
        acoustic: latents before the tanh.
        made: true envelopes.
        exact: their components.
        mask: frames that count.
    """
    named = jnp.tanh(acoustic) @ components["basis"] + components["mean"]
    apart = jnp.mean(jnp.abs(named - made), axis=-1)
    before = jnp.mean(jnp.abs(acoustic - jnp.arctanh(exact)), axis=-1)
    return weighted_mean(apart + BEFORE_TANH * before, mask)


def early_places(config: CodecConfig) -> dict[int, Place]:
    """Which of `encoder_places` have a head of spectra, by their number."""
    return {
        number: place
        for number, place in enumerate(encoder_places(config))
        if isinstance(place.block, CodecTransformer) and place.rate > 1
    }


def init_early(config: CodecConfig) -> Params:
    """Heads `[dim, spectra of a step]` that say nothing yet, by the names of their blocks."""
    width = len(no_components(config)["mean"])
    return {
        place.name: jnp.zeros((config.dim, width // place.rate))
        for place in early_places(config).values()
    }


def early_loss(
    heads: Params,
    given: Sequence[Float[Array, "B steps dim"]],
    made: Float[Array, "B T D"],
    components: Params,
    mask: Float[Array, "B T"],
    config: CodecConfig,
) -> Array:
    """Mean distance of the spectra that heads hear in what the encoder's blocks give.

    Heads say those that end with their step, one spectrum ago: windows lie around their time, and
    no step knows what comes after it. Taught what it cannot know, a block would say what is likely.

    Args:
        heads: of `init_early`.
        given: by each of `encoder_places`.
        made: true envelopes.
        components: of envelopes; heads say what differs from their mean.
        mask: frames that count.
    """
    found = []
    spectra = made.reshape(len(made), -1, made.shape[-1] // (HOPS_PER_PATCH * config.stride))
    ended = jnp.concatenate([spectra[:, :1], spectra[:, :-1]], axis=1).reshape(made.shape)
    for number, place in early_places(config).items():
        heard = given[number] @ heads[place.name]
        named = heard.reshape(*made.shape[:2], -1) + components["mean"]
        found.append(weighted_mean(jnp.mean(jnp.abs(named - ended), axis=-1), mask))
    return jnp.mean(jnp.stack(found))
