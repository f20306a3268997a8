"""Where in the spectrum a codec's decoder plays what its codes tell, and how good that sounds.

    python scripts/corpus/fidelity.py MODEL "corpus/told-validation/lines-*.jsonl" --count 16

Recordings whose goals follow from their exact codes (`lock.py --detail`) are decoded from those
codes. A table says by band, in frames with and without a voice, how alike both are (real part of
coherence: 1 is the same wave, 0 another) and how loud the decoder is next to its goals; then
predicted opinion (DistillMOS) and ESTOI, and those of the goals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import librosa
import numpy as np
import typer
from jaxtyping import Bool, Complex, Float
from rich.console import Console
from rich.table import Table
from telling import COMPONENTS, codes_of, silence_after

from voxtral_jax import Model, load_model
from voxtral_jax.codec.run import decode_codes, encode_audio
from voxtral_jax.errors import DataError
from voxtral_jax.evaluation.cli import DEFAULT
from voxtral_jax.evaluation.judges import Judge, Sound, make_judge
from voxtral_jax.evaluation.takes import CODEC, Clip
from voxtral_jax.parameters import Params
from voxtral_jax.progress import followed
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.recordings import read_utterance
from voxtral_jax.training.data.utterances import Utterance, goal_of
from voxtral_jax.training.envelope import read_components

BANDS = (0, 300, 600, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 8000)
"""Hz between bands."""
FFT, HOP = 1024, 240
"""Samples of a spectrum, and between two."""
LEAST = 1e-9
"""Of power, so that silence is as loud as silence."""
CLIP = Clip(name="", condition=CODEC, text="", language="", speaker="")
"""What judges of resynthesis want."""


@dataclass(frozen=True, eq=False)
class Played:
    """A recording, and what becomes of it.

    Attributes:
        recording, goal: samples `[S]`.
        exact, heard: `[S]`, decoded from exact codes, and from those that the encoder hears.
        voiced: samples in frames with a voice.
    """

    recording: Float[np.ndarray, " S"]
    goal: Float[np.ndarray, " S"]
    exact: Float[np.ndarray, " S"]
    heard: Float[np.ndarray, " S"]
    voiced: Bool[np.ndarray, " S"]


def play(model: Model, one: Utterance, components: Params) -> Played:
    """Decodes a recording of a manifest that has goals and pitch."""
    config = model.config.codec
    recording, goal = (read_utterance(x, config.sampling_rate) for x in (one, goal_of(one)))
    codes = encode_audio(model, recording, config.sampling_rate)
    ends = np.asarray((*one.pitch, 0.0)[: len(codes)])
    exact = np.asarray(codes_of(recording, silence_after(ends), config, components))
    with_exact = np.hstack([codes[:, :1], exact[: len(codes)]])
    made = (decode_codes(model, x) for x in (with_exact, codes))
    size = min(len(recording), len(goal))
    voiced = np.repeat(ends > 0, config.frame_samples)
    return Played(*(x[:size] for x in (recording, goal, *made, voiced)))


def spectra(samples: Float[np.ndarray, " S"]) -> Complex[np.ndarray, "bins N"]:
    """Of windows around every `HOP`th sample."""
    return librosa.stft(samples, n_fft=FFT, hop_length=HOP)


def by_band(
    played: list[Played], rate: int, *, voiced: bool
) -> tuple[Float[np.ndarray, " bands"], Float[np.ndarray, " bands"]]:
    """Coherence with goals and level next to them (dB), in frames with or without a voice."""
    bins = np.searchsorted(np.fft.rfftfreq(FFT, 1 / rate), BANDS)
    sums = np.full((3, len(BANDS) - 1), LEAST)
    for one in played:
        goal, made = spectra(one.goal), spectra(one.exact)
        places = np.minimum(np.arange(goal.shape[1]) * HOP, len(one.voiced) - 1)
        these = one.voiced[places] == voiced
        products = ((goal * made.conj()).real, np.abs(goal) ** 2, np.abs(made) ** 2)
        for row, product in zip(sums, products, strict=True):
            row += np.add.reduceat(product[:, these].sum(axis=1)[: bins[-1]], bins[:-1])
    both, goals, made = sums
    return both / np.sqrt(goals * made), 10 * np.log10(made / goals)


def opinions(
    played: list[Played], rate: int, mos: Judge, estoi: Judge
) -> dict[str, tuple[float, float]]:
    """Mean predicted opinion and ESTOI of recordings, goals and what is decoded."""
    found: dict[str, tuple[float, float]] = {}
    for name in ("recording", "goal", "exact", "heard"):
        sounds = [Sound(CLIP, getattr(one, name), rate, one.recording) for one in played]
        each = [mos.hear(sound) | estoi.hear(sound) for sound in sounds]
        found[name] = mean(one["mos"] for one in each), mean(one["estoi"] for one in each)
    return found


def main(
    model: Annotated[str, typer.Argument(help="folder of weights, or default")],
    manifest: Annotated[str, typer.Argument(help="of lock.py --detail; a pattern of several")],
    count: Annotated[int, typer.Option(min=1, help="recordings, spread over all")] = 16,
    components: Annotated[Path, typer.Option(help="of its codec's latents")] = COMPONENTS,
) -> None:
    """Prints two tables."""
    judges = make_judge("distillmos"), make_judge("estoi")
    loaded = load_model(None if model == DEFAULT else model)
    codec = loaded.config.codec
    basis = read_components(components, codec)
    found = read_manifest(manifest, need_text=False)
    found.need_pitch(codec.frame_rate)
    if not found.has_goals:
        raise DataError(f"{manifest} has no 'goal': lock.py --detail writes it")
    every = sorted(found.utterances, key=lambda one: one.key)
    chosen = every[:: max(1, len(every) // count)][:count]
    played = [play(loaded, one, basis) for one in followed(chosen, "recordings", len(chosen))]

    console = Console()
    table = Table("Hz up to", "voice: alike", "dB", "no voice: alike", "dB")
    sides = [by_band(played, codec.sampling_rate, voiced=voiced) for voiced in (True, False)]
    for high, *row in zip(BANDS[1:], *sides[0], *sides[1], strict=True):
        table.add_row(str(high), *(f"{x:.2f}" for x in row))
    console.print(table)
    table = Table("played", "DistillMOS", "ESTOI")
    for name, (mos, estoi) in opinions(played, codec.sampling_rate, *judges).items():
        table.add_row(name, f"{mos:.2f}", f"{estoi:.3f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
