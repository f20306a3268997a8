"""Plays recordings anew, in a way that a small codec can learn to give back.

    python scripts/corpus/lock.py data/nano/train corpus/locked --worker 0 --workers 2

Reads a manifest, or shards, and writes each recording (24 kHz FLAC) and beside it how it is to
sound: the spectral envelope that WORLD finds, and its pitch at the ends of the codec's frames of
80 ms; between them, pitch goes from one to the other in a whole number of cycles. Pulses have the
envelope's minimum phase. There is as much noise as speech has on average, the same in every frame.
Every sample then follows from envelopes and the pitch at two ends of frames, so that waveforms can
be compared. A decoder is taught to say it, an encoder to hear it in the recording itself:
`lines-*.jsonl` is the manifest, with `goal` and `pitch`. Each `--speed` plays all of them, pitch
and formants too, as other speakers; `--colour` gives each speaker another timbre. The same command
goes on where it was stopped; 30 s of audio a second on one core.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Complex, Float

from voxtral_jax.audio import write_audio
from voxtral_jax.files import append_line, read_lines
from voxtral_jax.progress import followed
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.recordings import at_speed, read_utterance
from voxtral_jax.training.data.utterances import Utterance

RATE, FRAME = 24_000, 1920
"""Samples a second, and in a frame of the codec."""
HOP, WINDOW, FFT = 120, 480, 1024
"""Samples between two spectra, in one, and with room for the envelope's echo."""
LOWEST, HIGHEST = 70.0, 420.0
"""Hz between which pitch is looked for."""
MORE = 0.75
"""Of a cycle, that makes one more of a frame. Not half of one: where speech is made whose pitches
are all whole numbers of cycles, half of the means of two would be undecided."""
VOICED_SPECTRA = 4
"""Spectra (of 16) that must have a pitch for the frame to have one."""
NOISE = np.array(
    [
        (0, 0.04),
        (1700, 0.07),
        (2250, 0.13),
        (2900, 0.36),
        (3400, 0.5),
        (4500, 0.56),
        (6000, 0.69),
        (9000, 0.75),
        (12000, 1.0),
    ]
)
"""Share of noise (of amplitude) in voiced speech at some Hz: WORLD's mean over 17 minutes."""
NOISE_SEED = 7
"""Of the phases of the noise."""
SILENT = 1e-3
"""Peak of recordings that are left out."""
COLOURED = (0, 250, 600, 1000, 1600, 2400, 3400, 4800, 7000, 12000)
"""Hz at which colours are drawn; between them they change evenly."""


def analyse(
    samples: Float[np.ndarray, " S"],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N bins"]]:
    """Pitch in Hz (0: none) and power spectrum every 5 ms, first and last sample included."""
    import pyworld

    sound = samples.astype(np.float64)
    count = len(samples) // HOP + 1
    pitch, times = pyworld.dio(
        sound, RATE, f0_floor=LOWEST, f0_ceil=HIGHEST, frame_period=1000 * HOP / RATE
    )
    pitch = pyworld.stonemask(sound, pitch, times, RATE)[:count]
    return pitch, pyworld.cheaptrick(sound, pitch, times[:count], RATE, fft_size=FFT)


def pitch_at_ends(pitch: Float[np.ndarray, " N"], frames: int) -> Float[np.ndarray, " frames"]:
    """Hz at the end of each frame, 0 if it has no voice; where it ends without, what is near."""
    voiced = np.flatnonzero(pitch)
    if not len(voiced):
        return np.zeros(frames)
    each = FRAME // HOP
    filled = np.interp(np.arange(-1, frames * each + 2), voiced, pitch[voiced])
    smooth = np.convolve(filled, [0.25, 0.5, 0.25], "valid")
    spoken = (pitch[: frames * each].reshape(frames, each) > 0).sum(axis=1) >= VOICED_SPECTRA
    return np.where(spoken, smooth[each::each], 0)


def pulses(ends: Float[np.ndarray, " frames"]) -> Float[np.ndarray, " S"]:
    """Pulses with all harmonics, of power 1, whose pitch goes from one end of a frame to the other.

    Each frame has a whole number of cycles, and begins and ends between two pulses: all of them
    follow from pitch at its ends, as in sinusoidal models (McAulay and Quatieri 1986). Without a
    voice before, pitch is from the first what it is at the end.
    """
    last = np.maximum(ends, LOWEST) * FRAME / RATE
    before = np.where(np.append(0, ends[:-1]) > 0, np.append(0, last[:-1]), last)
    mean = (before + last) / 2
    missing = np.floor(mean + MORE) - mean
    u = np.arange(FRAME) / FRAME
    first, change, missing = (x[:, None] for x in (before, last - before, missing))
    turns = first * u + change * u**2 / 2 + missing * (3 * u**2 - 2 * u**3)
    speed = first + change * u + 6 * missing * u * (1 - u)
    harmonics = np.maximum(1, FRAME / 2 // speed.max(axis=1, keepdims=True))
    # The sum of cosines of all harmonics, half a turn on; it is `harmonics` at a pulse.
    angles = np.pi * (turns + 0.5)
    below = np.sin(angles)
    pulse = np.abs(below) < 1e-6
    ratio = np.sin((2 * harmonics + 1) * angles) / np.where(pulse, 1, below)
    made = np.where(pulse, harmonics, (ratio - 1) / 2)
    return (made * np.sqrt(2 / harmonics)).reshape(-1)


def hiss() -> Float[np.ndarray, " frame"]:
    """Noise of power 1 with all harmonics of a frame alike: as often as it is played, it is white.

    One that is new in each frame could not be learned, and a decoder has nothing to draw it from.
    """
    phases = np.random.default_rng(NOISE_SEED).uniform(0, 2 * np.pi, FRAME // 2 + 1)
    phases[[0, -1]] = 0
    return np.fft.irfft(np.exp(1j * phases), FRAME) * np.sqrt(FRAME)


def minimum_phase(power: Float[np.ndarray, "N bins"]) -> Complex[np.ndarray, "N bins"]:
    """Numbers of absolute value 1: phases with which spectra sound as soon as they can."""
    cepstra = np.fft.irfft(np.log(np.maximum(power, 1e-16)) / 2, FFT, axis=1)
    later = np.zeros(FFT)
    later[[0, FFT // 2]] = 1
    later[1 : FFT // 2] = 2
    return np.exp(1j * np.fft.rfft(cepstra * later, axis=1).imag)


def lock(
    samples: Float[np.ndarray, " S"],
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " frames"]]:
    """The recording as a codec is to give it back, as loud as it was; Hz at each frame's end."""
    frames = -(-len(samples) // FRAME)
    padded = np.pad(samples, (0, frames * FRAME - len(samples)))
    pitch, power = analyse(padded)
    ends = pitch_at_ends(pitch, frames)
    count = len(pitch)
    voiced = (pitch > 0) & (ends[np.minimum(np.arange(count) * HOP // FRAME, frames - 1)] > 0)
    smooth = np.convolve(np.pad(voiced.astype(float), 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    hertz = np.arange(FFT // 2 + 1) * RATE / FFT
    tone = smooth[:, None] * (1 - np.interp(hertz, NOISE[:, 0], NOISE[:, 1]) ** 2)

    taper = np.sqrt(np.hanning(WINDOW + 1)[:-1])
    places = np.arange(count)[:, None] * HOP + np.arange(WINDOW)
    spoken, hissed = (
        np.fft.rfft(np.pad(x, (WINDOW // 2, WINDOW))[places] * taper, FFT)
        for x in (pulses(ends), np.tile(hiss(), frames))
    )
    spoken *= np.sqrt(tone) * minimum_phase(power)
    made = np.fft.irfft(np.sqrt(power) * (spoken + np.sqrt(1 - tone) * hissed), FFT)
    # The envelope of noise has no phase: its echo lies on both sides of the window.
    made = np.roll(made, (FFT - WINDOW) // 2, axis=1)
    out = np.zeros((count - 1) * HOP + FFT)
    for place, piece in enumerate(made):
        out[place * HOP : place * HOP + FFT] += piece
    out = out[FFT // 2 : FFT // 2 + len(samples)]
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
    one: Utterance, out: Path, speed: float = 1.0, colour: float = 0.0
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
    played, pitch = lock(samples)
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
) -> None:
    """Plays one worker's share."""
    utterances = read_manifest(manifest, need_text=False).utterances[worker::workers]
    lines = out / f"lines-{worker}-of-{workers}.jsonl"
    done = {line["key"] for line in read_lines(lines)}
    wanted = [(one, at) for one in utterances for at in speed or [1.0]]
    left = [(one, at) for one, at in wanted if at_speed(one, at).key not in done]
    out.mkdir(parents=True, exist_ok=True)
    for one, at in followed(left, f"worker {worker}, recordings played", len(left)):
        line = play(one, out, at, colour)
        if line is not None:
            append_line(lines, line)


if __name__ == "__main__":
    typer.run(main)
