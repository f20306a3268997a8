"""What the acoustic latents may be taught to hold: the spectral envelope of their frame.

An encoder that learns only through the decoder learns slowly. Here a frame's log mel spectrum,
without its harmonics, is written in its first principal components, as many as there are acoustic
codes. The latents learn them, some rows of each batch are decoded from the exact ones, and the
encoder starts as a mel filterbank. None of this is published; `data/nano/README.md` has what it is
good for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

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

WINDOW = 512
"""Samples that a spectrum looks at."""
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
LOWEST, HIGHEST = 40.0, 0.48
"""Filters of the encoder's start: the lowest in Hz, the highest as a share of the sampling rate."""
LEVEL, FALL, BEND = 0.3, 1.2, 200.0
"""Filters make speech this loud in every band: from `BEND` Hz on it falls with that power of the
frequency. Norms see all filters at once; what is quiet beside others would be lost to them."""
FIRST = "encoder_blocks_0"
"""The transformer that hears the filters."""
SQUARE = 3.0
"""Of a filter, that the first feed-forward adds at the start."""
LOGARITHM = 30.0
"""Of the second's output, which has powers bent to something like their logarithms."""
BENDS = ((0.0, 11.0, 100.0), (0.1, -9.9, 50.0), (1.0, -1.0, 8.0), (8.0, -0.1, 2.0))
"""Where it bends, in means of all powers; by how much its slope changes there; how sharply."""
REST = 0.1
"""Of their random weights, in the rest of these layers: they start quiet."""


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
    return (mel_bands(rate, WINDOW) @ (weights / weights.sum(axis=0)).T).astype(np.float32)


def envelopes(samples: Float[Array, "B S"], config: CodecConfig) -> Float[Array, "B T D"]:
    """Log10 mel spectra of each frame, one after the other; S is a whole number of frames."""
    hop = config.pretransform_patch_size // HOPS_PER_PATCH
    power = magnitudes(samples, WINDOW, hop) ** 2 @ smooth_bands(config.sampling_rate).T
    logs = jnp.log10(jnp.maximum(power, MEL_FLOOR**2)) / 2
    return logs.reshape(samples.shape[0], samples.shape[1] // config.frame_samples, -1)


def no_components(config: CodecConfig) -> Params:
    """Zeros in the shapes of `find_components`."""
    width = mel_bands(config.sampling_rate, WINDOW).shape[0] * HOPS_PER_PATCH * config.stride
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


def _frequencies(config: CodecConfig) -> Float[np.ndarray, " pairs_and_ends"]:
    """Mel frequencies in Hz of the filterbank's pairs, with one more at either end."""
    import librosa

    pairs = -(-config.dim // 2)
    highest = HIGHEST * config.sampling_rate
    return librosa.mel_frequencies(pairs + 2, fmin=LOWEST, fmax=highest)


def filterbank(config: CodecConfig) -> Float[np.ndarray, "dim samples"]:
    """Pairs of windowed cosines and sines at mel frequencies, rows of norm 1, latest sample last.

    Windows are as long as the distance of neighbouring frequencies asks for, at most that of the
    envelopes, and end with the kernel; short ones lie in the middle of its last two patches.
    """
    rate, patch = config.sampling_rate, config.pretransform_patch_size
    samples, centres = config.patch_proj_kernel_size * patch, _frequencies(config)
    apart = (centres[2:] - centres[:-2]) / 2
    rows = []
    for centre, distance in zip(centres[1:-1], apart, strict=True):
        length = int(min(WINDOW, samples, 2 * rate / max(distance, LOWEST)))
        last = samples - max(0, (min(samples, 2 * patch) - length) // 2)
        taper = np.zeros(samples)
        taper[last - length : last] = np.hanning(length + 2)[1:-1]
        turns = 2 * np.pi * centre * np.arange(samples) / rate
        rows += [taper * np.cos(turns), taper * np.sin(turns)]
    bank = np.stack(rows)[: config.dim]
    return (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)


def filter_weights(config: CodecConfig) -> dict[str, np.ndarray]:
    """The filterbank as weights of the encoder's first convolution, with a weight norm or without.

    Each filter is as loud as the others are in speech.
    """
    patch, kernel = config.pretransform_patch_size, config.patch_proj_kernel_size
    bank = filterbank(config).reshape(config.dim, kernel, patch).transpose(0, 2, 1)
    rising = LEVEL * (1 + _frequencies(config)[1:-1] / BEND) ** FALL
    gains = np.repeat(rising, 2)[: config.dim].astype(np.float32)[:, None, None]
    norm = "parametrizations.weight.original"
    return {f"{norm}0": gains, f"{norm}1": bank * kernel, "weight": bank * gains}


def _squares(dim: int, hidden: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`w1` and `w3` `[units, dim]` and `w2` `[dim, units]` of a feed-forward that adds the power of
    each pair of filters to both of them.

    Two units give the square of a filter: x silu(x) - x silu(-x).
    """
    filters = np.arange(min(dim, hidden // 2))
    given = np.zeros((2 * len(filters), dim), np.float32)
    given[2 * filters, filters], given[2 * filters + 1, filters] = 1, -1
    made = np.zeros((dim, 2 * len(filters)), np.float32)
    for one in (filters // 2 * 2, np.minimum(filters // 2 * 2 + 1, dim - 1)):
        made[one, 2 * filters] = made[one, 2 * filters + 1] = SQUARE
    return given, given, made


def _logarithms(dim: int, hidden: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of one that adds the logarithms of these powers, in straight pieces.

    There are no biases: what a unit is compared with is the mean of all powers.
    """
    pairs = np.arange(min(dim // 2, hidden // len(BENDS)))
    given = np.zeros((len(BENDS) * len(pairs), dim), np.float32)
    made = np.zeros((dim, len(given)), np.float32)
    for i, (at, change, sharpness) in enumerate(BENDS):
        units = len(BENDS) * pairs + i
        given[units] = -sharpness * at / dim
        for filters in (2 * pairs, 2 * pairs + 1):
            given[units, filters] += sharpness / 2
            made[filters, units] = LOGARITHM * change / sharpness
    return given, np.full_like(given, 1 / dim), made


def _first_layers(config: CodecConfig) -> dict[str, dict[str, np.ndarray]]:
    """What the feed-forwards of `FIRST` start with, by layer and weight; the rest is random."""
    made = {"layers_0": _squares, "layers_1": _logarithms}
    return {
        layer: dict(zip(("w1", "w3", "w2"), make(config.dim, config.hidden_dim), strict=True))
        for layer, make in made.items()
    }


def as_filterbank(codec: Params, config: CodecConfig) -> Params:
    """Random weights, boxed or not, with an encoder that begins as a filterbank.

    Envelopes are logarithms of powers, which a transformer is slow to find: its first feed-forwards
    start with them. The layers that follow are heard at once; acoustic latents are small, so that
    tanh lets gradients pass.
    """
    filters, layers = filter_weights(config), _first_layers(config)
    latents = np.ones((config.latent_dim, 1, 1), np.float32)
    latents[config.semantic_dim :] = 0.1
    final = f"encoder_blocks_{2 * len(config.encoder_stages) - 1}"

    def change(path: tuple[Any, ...], leaf: Array) -> Array:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        block, name = names[0], names[-1]
        if block == "input_proj":
            return jnp.asarray(filters[name], leaf.dtype)
        if block == FIRST and name in ("attention_scale", "ffn_scale"):
            quiet = names[1] in layers and name == "attention_scale"
            return jnp.full_like(leaf, REST if quiet else 1)
        if block == FIRST and names[1] in layers and names[2] == "feed_forward":
            start = layers[names[1]][names[3]]
            return (REST * leaf).at[: start.shape[0], : start.shape[1]].set(start)
        if block == final and name.endswith(("original0", "weight")):
            return leaf * latents
        return leaf

    return jax.tree_util.tree_map_with_path(change, codec)
