"""Plays recordings anew, in a way that a small codec can learn to give back.

    python scripts/corpus/lock.py data/nano/train corpus/locked --worker 0 --workers 2

Reads a manifest, or shards, and writes each recording (24 kHz FLAC) and beside it how it is to
sound (`vocoder.py`): the spectral envelope that WORLD finds, and its pitch at the ends of the
codec's frames of 80 ms. Every sample then follows from these, so that waveforms can be compared. A
decoder is taught to say it, an encoder to hear it in the recording itself: `lines-*.jsonl` is the
manifest, with `goal` and `pitch`. With `--detail` goals are what the codes of the recording tell,
and a decoder can know all of it. Each `--speed` plays all of them, pitch and formants too, as other
speakers; `--colour` gives each speaker another timbre. The same command goes on where it was
stopped; 30 s of audio a second on one core.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Float
from telling import PARAMS, Teller
from vocoder import FRAME, RATE, vocode
from world import find_pitch, find_power, pitch_at_ends

from voxtral_jax.audio import write_audio
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.files import append_line, read_lines
from voxtral_jax.progress import followed
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.recordings import at_speed, read_utterance
from voxtral_jax.training.data.utterances import Utterance

SILENT = 1e-3
"""Peak of recordings that are left out."""
COLOURED = (0, 250, 600, 1000, 1600, 2400, 3400, 4800, 7000, 12000)
"""Hz at which colours are drawn; between them they change evenly."""


def lock(
    samples: Float[np.ndarray, " S"], teller: Teller | None = None
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " frames"]]:
    """The recording as a codec is to give it back, as loud as it was; Hz at each frame's end.

    Args:
        teller: plays what the recording's codes tell; None: what WORLD finds in it.
    """
    frames = -(-len(samples) // FRAME)
    padded = np.pad(samples, (0, frames * FRAME - len(samples)))
    pitch = find_pitch(padded)
    ends = pitch_at_ends(pitch, frames)
    if teller is not None:
        return teller.tell(samples, ends), ends
    out = vocode(find_power(padded, pitch), (pitch > 0).astype(float), ends)[: len(samples)]
    return (out * _gain(samples, out)).astype(np.float32), ends


def coloured(
    samples: Float[np.ndarray, " S"], decibels: float, speaker: str
) -> Float[np.ndarray, " S"]:
    """The recording through an equaliser drawn for the speaker, of that deviation; as loud, or
    less so if it would clip."""
    seed = hashlib.sha256(speaker.encode()).digest()
    drawn = np.random.default_rng(list(seed)).normal(0, decibels, len(COLOURED))
    padded = np.pad(samples.astype(np.float64), (0, RATE // 10))
    hertz = np.fft.rfftfreq(len(padded), 1 / RATE)
    gains = 10 ** (np.interp(hertz, COLOURED, drawn) / 20)
    made = np.fft.irfft(np.fft.rfft(padded) * gains, len(padded))[: len(samples)]
    return (made * min(_gain(samples, made), 0.99 / np.abs(made).max())).astype(np.float32)


def _gain(samples: Float[np.ndarray, " S"], made: Float[np.ndarray, " S"]) -> float:
    """What makes one recording as loud as another."""
    return math.sqrt(np.mean(samples**2) / max(float(np.mean(made**2)), 1e-12))


def play(
    one: Utterance,
    out: Path,
    speed: float = 1.0,
    colour: float = 0.0,
    teller: Teller | None = None,
) -> dict[str, Any] | None:
    """Writes a recording and its goal; its line of the manifest, or None if it is silent."""
    samples = read_utterance(one, RATE, speed)
    one = at_speed(one, speed)
    # Every corpus numbers its recordings from 0; codes of several are packed together.
    name = hashlib.sha256("\n".join((one.key, *one.texts)).encode()).hexdigest()[:16]
    if np.abs(samples).max() < SILENT:
        return None
    if colour:
        samples = coloured(samples, colour, str(one.speaker))
    audio, goal = f"{one.language}/{name}.flac", f"{one.language}/{name}-goal.flac"
    (out / one.language).mkdir(parents=True, exist_ok=True)
    write_audio(out / audio, samples, RATE)
    played, pitch = lock(samples, teller)
    write_audio(out / goal, played, RATE)
    return {
        "audio": audio,
        "goal": goal,
        "pitch": [round(float(hertz), 1) for hertz in pitch],
        "text": list(one.texts),
        "language": one.language,
        "speaker": one.speaker,
        "phonemes": one.phonemes,
        "phoneme_ends": list(one.phoneme_ends),
        "key": one.key,
    }


def main(
    manifest: Annotated[str, typer.Argument(help="of recordings, or a folder of shards")],
    out: Annotated[Path, typer.Argument(help="folder for recordings, goals and their manifest")],
    worker: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=1)] = 1,
    speed: Annotated[
        list[float] | None,
        typer.Option(min=0.5, max=2, help="several times; other than 1: other speakers"),
    ] = None,
    colour: Annotated[
        float, typer.Option(min=0, max=12, help="dB by which timbres are made others'")
    ] = 0.0,
    detail: Annotated[
        Path | None, typer.Option(help="file of detail.py: goals are what codes tell")
    ] = None,
    params: Annotated[Path, typer.Option(help="sizes of the model, for --detail")] = PARAMS,
) -> None:
    """Plays one worker's share."""
    teller = Teller.load(detail, VoxtralConfig.load(params).codec) if detail else None
    utterances = read_manifest(manifest, need_text=False).utterances[worker::workers]
    lines = out / f"lines-{worker}-of-{workers}.jsonl"
    done = {line["key"] for line in read_lines(lines)}
    wanted = [(one, at) for one in utterances for at in speed or [1.0]]
    left = [(one, at) for one, at in wanted if at_speed(one, at).key not in done]
    out.mkdir(parents=True, exist_ok=True)
    for one, at in followed(left, f"worker {worker}, recordings played", len(left)):
        line = play(one, out, at, colour, teller)
        if line is not None:
            append_line(lines, line)


if __name__ == "__main__":
    typer.run(main)
