"""What a codec's codes tell, played: spectra that `detail.py` learned to find in them.

A frame's codes hold the principal components of its spectra; they lose most of what happens within
a frame. Much of that follows from the codes of this frame and those before. What is played here
follows from codes alone, and from none that comes after its frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import optax
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float, Int
from scipy.ndimage import uniform_filter1d
from vocoder import FRAME, HERTZ, RATE, SPECTRA, vocode

from voxtral_jax.checkpoint.weights import read_tensors
from voxtral_jax.config import CodecConfig
from voxtral_jax.errors import CheckpointError
from voxtral_jax.kernels.fsq import code_values
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import Params
from voxtral_jax.training.envelope import read_components
from voxtral_jax.training.pitch import exact_codes

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "configs" / "nano" / "params.json"
"""Sizes of the model in the box."""
COMPONENTS = ROOT / "data" / "nano" / "components.safetensors"
"""Of the latents of its codec."""
BANDS = 80
"""Points on a mel scale at which a spectrum is known; between them it is interpolated."""
MELS = librosa.mel_frequencies(BANDS, fmin=0, fmax=RATE / 2)
FLOOR = -3.5
"""Of the logarithms (base 10) of magnitudes: what lies below is silent."""
CONTEXT = 6
"""Frames whose codes are heard: this one and those before."""
AHEAD = 2
"""Spectra by which a frame's lie behind it: its last samples sound by those, and nothing in a frame
may depend on what comes next (but noise, which echoes 11 ms back)."""
WIDTH, HIDDEN = 1024, 5
"""Of the network, and its layers."""
SHARPER, SHARP_BANDS = 0.45, 9
"""By how much spectra are further from their mean over so many bands: what is found is too smooth.
Chosen in validation by predicted opinion (MOS) and ESTOI, which it raises and lowers."""
LOUDNESS = 10**-0.37
"""Of what is played then: recordings are as loud on average."""
LOGIT = 10.0
"""Scale of the logits of voices."""
VOICE = 0.03
"""Weight of the loss of voices, next to the distance of spectra."""
ROUND_UP = 32
"""Frames: recordings are made as long as a multiple of so many."""


class Detail(nn.Module):
    """From the acoustic latents of `CONTEXT` frames to the spectra of the last one.

    Gives spectra `[B, SPECTRA, BANDS]` and logits of voices `[B, SPECTRA]`.
    """

    @nn.compact
    def __call__(
        self, latents: Float[Array, "B context A"]
    ) -> tuple[Float[Array, "B spectra bands"], Float[Array, "B spectra"]]:
        rows = len(latents)
        plain = nn.Dense(SPECTRA * BANDS, name="plain")(latents[:, -1])
        hidden = nn.gelu(nn.Dense(WIDTH)(latents.reshape(rows, -1)))
        for _ in range(HIDDEN - 1):
            hidden = hidden + nn.gelu(nn.Dense(WIDTH)(hidden))
        more = nn.Dense(SPECTRA * (BANDS + 1), kernel_init=nn.initializers.normal(1e-4))(hidden)
        spectra, voiced = jnp.split(more, [SPECTRA * BANDS], axis=-1)
        return (plain + spectra).reshape(rows, SPECTRA, BANDS), LOGIT * voiced


@dataclass(frozen=True)
class Teller:
    """Plays what codes tell.

    Attributes:
        config: of the codec.
        components: of its latents.
        params: of `Detail`.
    """

    config: CodecConfig
    components: Params
    params: Params

    @classmethod
    def load(cls, file: Path, config: CodecConfig) -> Teller:
        """From a file that `detail.py` wrote.

        Raises:
            CheckpointError: it cannot be read, or is of another codec or network.
        """
        components = read_components(file, config)
        tensors = unflatten_dict(read_tensors(file), sep=".")
        if "network" not in tensors:
            raise CheckpointError(f"{file} has components alone, no network: detail.py writes both")
        heard = jnp.zeros((1, CONTEXT, config.acoustic_dim))
        wanted = jax.eval_shape(Detail().init, jax.random.key(0), heard)["params"]
        if jax.tree.map(jnp.shape, tensors["network"]) != jax.tree.map(jnp.shape, wanted):
            raise CheckpointError(
                f"{file} has a network of other sizes than {HIDDEN} layers of {WIDTH} and {BANDS} "
                "bands (telling.py): learn it anew with detail.py"
            )
        return cls(config, components, tensors["network"])

    def tell(
        self, samples: Float[np.ndarray, " S"], ends: Float[np.ndarray, " frames"]
    ) -> Float[np.ndarray, " S"]:
        """What the codes of a recording tell, as long as it is.

        Args:
            samples: the recording, at most as long as `ends`.
            ends: Hz at the end of each frame.
        """
        ends = silence_after(ends)
        latents = latents_of(samples, ends, self.config, self.components)
        spectra, logits = find(self.params, with_context(latents, [len(latents)]))
        made = play(sharpened(np.asarray(spectra)), 1 / (1 + np.exp(-np.asarray(logits))), ends)
        return np.clip(made[: len(samples)] * LOUDNESS, -1, 1).astype(np.float32)


@jax.jit
def find(params: Params, latents: Float[Array, "B context A"]) -> tuple[Array, Array]:
    """Spectra and logits of voices that `Detail` finds."""
    found: tuple[Array, Array] = apply(Detail(), params, latents)
    return found


def distance(
    found: tuple[Array, Array],
    spectra: Float[Array, "B spectra bands"],
    voiced: Float[Array, "B spectra"],
) -> tuple[Array, Array]:
    """How far what `find` gives is from what is so, voices weighed; and its spectra alone."""
    apart = jnp.mean(jnp.abs(found[0] - spectra))
    wrong = jnp.mean(optax.sigmoid_binary_cross_entropy(found[1], voiced))
    return apart + VOICE * wrong, apart


def codes_of(
    samples: Float[np.ndarray, " S"],
    ends: Float[np.ndarray, " frames"],
    config: CodecConfig,
    components: Params,
) -> Int[Array, "frames A"]:
    """The exact acoustic codes of a recording, at most as long as `ends`."""
    sound = np.pad(samples, (0, len(ends) * FRAME - len(samples))).astype(np.float32)
    return exact_codes(sound[None], ends[None].astype(np.float32), components, config=config)[0]


def latents_of(
    samples: Float[np.ndarray, " S"],
    ends: Float[np.ndarray, " frames"],
    config: CodecConfig,
    components: Params,
) -> Float[np.ndarray, "frames A"]:
    """The acoustic latents that exact codes of a recording stand for."""
    codes = codes_of(samples, ends, config, components)
    return np.asarray(code_values(codes, config.acoustic_codebook_size))


def silence_after(ends: Float[np.ndarray, " frames"]) -> Float[np.ndarray, " more"]:
    """The pitch of a recording that is longer, so that few lengths are compiled."""
    return np.pad(ends, (0, -len(ends) % ROUND_UP))


def with_context(
    latents: Float[np.ndarray, "frames A"], lengths: Sequence[int]
) -> Float[np.ndarray, "frames context A"]:
    """Latents of recordings of these lengths, with those before; zeros before the first."""
    counts = np.asarray(lengths)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    heard = np.arange(len(first))[:, None] + np.arange(1 - CONTEXT, 1)
    return np.where((heard >= first[:, None])[..., None], latents[heard], 0)


def spectra_of(power: Float[np.ndarray, "N bins"]) -> Float[np.ndarray, "N bands"]:
    """Logarithms (base 10) of magnitudes at `MELS`."""
    logs = np.log10(np.maximum(power, 10 ** (2 * FLOOR))) / 2
    return np.stack([np.interp(MELS, HERTZ, one) for one in logs])


def sharpened(spectra: Float[np.ndarray, "*B bands"]) -> Float[np.ndarray, "*B bands"]:
    """Spectra whose peaks stand out by `SHARPER` more."""
    smooth = uniform_filter1d(spectra, SHARP_BANDS, axis=-1, mode="nearest")
    return spectra + SHARPER * (spectra - smooth)


def play(
    spectra: Float[np.ndarray, "frames spectra bands"],
    voiced: Float[np.ndarray, "frames spectra"],
    ends: Float[np.ndarray, " frames"],
) -> Float[np.ndarray, " S"]:
    """Samples of each frame's spectra: those `AHEAD` after its first one, and what follows."""
    count = len(ends) * SPECTRA + 1
    power = [np.exp(np.log(10) * 2 * np.interp(HERTZ, MELS, x)) for x in _in_time(spectra, count)]
    return vocode(np.stack(power), _in_time(voiced, count), ends)


def _in_time(found: Float[np.ndarray, "frames spectra *D"], count: int) -> np.ndarray:
    """One after the other, as many as there are; before the first one it is like it."""
    rows = found.reshape(-1, *found.shape[2:])
    return np.concatenate([rows[:1]] * AHEAD + [rows])[:count]


def ahead(rows: np.ndarray) -> np.ndarray:
    """What of `frames * SPECTRA + 1` rows in time is a frame's: `[frames, SPECTRA, *D]`."""
    frames = len(rows) // SPECTRA
    at = np.arange(frames)[:, None] * SPECTRA + np.arange(AHEAD, SPECTRA + AHEAD)
    return rows[np.minimum(at, len(rows) - 1)]
