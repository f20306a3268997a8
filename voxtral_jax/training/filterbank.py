"""An encoder that begins as a mel filterbank with logarithms of powers, to name envelopes from.

What a random encoder would have to find first, and from waveforms finds badly, is put into its
first convolution and transformer. Not published; `data/nano/RUNS.md` has what it is good for.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from voxtral_jax.config import CodecConfig
from voxtral_jax.parameters import Params
from voxtral_jax.training.envelope import WINDOW

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
