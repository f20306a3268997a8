"""Where in its cycle a voice is, as layers of the codec's decoder may be taught to say it.

A decoder that plays high harmonics must know the phase of each, and learns the low ones first, the
others hardly: they are quiet, and far from what the codes say. Layers that must name the phases of
all of them, whatever their loudness, find each from lower ones. For recordings whose cycles follow
from the pitch of their frames (`pitch.py`). None of this is published; `data/nano/RUNS.md` has
what it is good for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from voxtral_jax.codec.model import CodecTransformer, decoder_places
from voxtral_jax.config import CodecConfig
from voxtral_jax.parameters import Params

LOWEST = 70.0
"""Hz of the lowest pitch."""
MORE = 0.75
"""Of a cycle, that makes one more of a frame. Not half of one: where speech is made whose pitches
are all whole numbers of cycles, half of the means of two would be undecided."""
HARMONICS, HIGHEST = 20, 2400.0
"""How many are taught, and up to how many Hz: goals have noise above."""
MOST_PHASES = 40
"""That a step of a layer is to name: those that make slow steps are taught the lowest harmonics,
which higher ones are found from."""


@dataclass(frozen=True)
class TaughtLayer:
    """A layer of the decoder, and what it is taught.

    Attributes:
        block: that it is in.
        number: in its block.
        patches: of each of its steps.
        harmonics: whose phases it is to name.
    """

    block: str
    number: int
    patches: int
    harmonics: int

    @property
    def name(self) -> str:
        """Of its head among the weights."""
        return f"{self.block}_{self.number}"


def cycles(
    pitch: Float[Any, "*B T"], places: Float[Any, " N"], frame_rate: float
) -> tuple[Float[Any, "*B T N"], Float[Any, "*B T N"]]:
    """Cycles since each frame began, and Hz, at some places in it.

    Each frame has a whole number of cycles: all follow from pitch at its ends, as in sinusoidal
    models (McAulay and Quatieri 1986). Without a voice before, pitch is from the first what it is
    at the end.

    Args:
        pitch: Hz at the end of each frame, 0 in those without a voice; NumPy's or JAX's, as places
            and the result.
        places: from 0, where a frame begins, to 1.
        frame_rate: frames a second.
    """
    xp = pitch.__array_namespace__()
    before = [(0, 0)] * (pitch.ndim - 1) + [(1, 0)]
    last = xp.maximum(pitch, LOWEST) / frame_rate
    spoken = xp.pad(pitch[..., :-1], before) > 0
    first = xp.where(spoken, xp.pad(last[..., :-1], before), last)
    mean = (first + last) / 2
    missing = xp.floor(mean + MORE) - mean
    first, change, missing = (x[..., None] for x in (first, last - first, missing))
    u = places
    turns = first * u + change * u**2 / 2 + missing * (3 * u**2 - 2 * u**3)
    return turns, (first + change * u + 6 * missing * u * (1 - u)) * frame_rate


def taught_layers(config: CodecConfig) -> list[TaughtLayer]:
    """All but the last one, of which samples are made."""
    found = []
    for place in decoder_places(config):
        if isinstance(place.block, CodecTransformer):
            patches = config.stride // place.rate
            harmonics = min(HARMONICS, MOST_PHASES // patches)
            found += [
                TaughtLayer(place.name, number, patches, harmonics)
                for number in range(place.block.n_layers)
            ]
    return [layer for layer in found[:-1] if layer.harmonics > 0]


def init_cycles(config: CodecConfig) -> Params:
    """Heads `[dim, patches of a step * harmonics * 2]` that say nothing yet, by layer."""
    return {
        layer.name: jnp.zeros((config.dim, layer.patches * layer.harmonics * 2))
        for layer in taught_layers(config)
    }


def cycle_loss(
    heads: Params,
    given: dict[str, Any],
    pitch: Float[Array, "B T"],
    mask: Float[Array, "B T"],
    config: CodecConfig,
) -> Array:
    """Mean square distance of cosines and sines of harmonics' phases in the middle of patches.

    Args:
        heads: of `init_cycles`.
        given: what layers give, `given[block][layers_n]` (`nn.module.apply_through`).
        pitch: as in `cycles`; frames without a voice do not count.
        mask: frames that count.
    """
    middles = (jnp.arange(config.stride) + 0.5) / config.stride
    turns, hertz = cycles(pitch, middles, config.frame_rate)
    numbers = jnp.arange(1, HARMONICS + 1)
    angles = 2 * jnp.pi * turns[..., None] * numbers
    wanted = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    counted = ((pitch > 0) * mask)[..., None, None] * (hertz[..., None] * numbers < HIGHEST)
    counts = jnp.sum(counted, axis=(0, 1, 2))
    found = []
    for layer in taught_layers(config):
        n = layer.harmonics
        said = given[layer.block][f"layers_{layer.number}"] @ heads[layer.name]
        phases = wanted[..., :n, :]
        apart = jnp.sum((said.reshape(phases.shape) - phases) ** 2, axis=-1) * counted[..., :n]
        # Each harmonic counts as much as others, however many frames have it.
        each = jnp.sum(apart, axis=(0, 1, 2)) / jnp.maximum(counts[:n], 1)
        found.append(jnp.sum(each) / jnp.maximum(jnp.sum(counts[:n] > 0), 1))
    return jnp.mean(jnp.stack(found))
