"""Plays recordings at a pitch of whole cycles in each frame: what a small codec can give back.

    python scripts/corpus/lock.py data/nano/train corpus/locked --worker 0 --workers 2

Reads a manifest, or shards, and writes each recording (24 kHz FLAC) and beside it how it is to
sound: the spectral envelope that WORLD finds, in frames of 80 ms that each hold a whole number of
cycles of one pitch, pulses in the middle of each cycle, and noise as much as speech has on average,
the same in every frame. Every sample then follows from the frames' pitches and envelopes, so that
waveforms can be compared. A decoder is taught to say it, an encoder to hear it in the recording
itself: `lines-*.jsonl` is the manifest, with `goal`. Each `--speed` plays all of them, pitch and
formants too, as other speakers. The same command goes on where it was stopped; 40 s of audio a
second on one core.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Float, Int
from rich.progress import track

from voxtral_jax.audio import write_audio
from voxtral_jax.files import append_line, read_lines
from voxtral_jax.training.data.manifest import Utterance, read_manifest
from voxtral_jax.training.data.recordings import at_speed, read_utterance
from voxtral_jax.training.pitch import cycles_in_frame

RATE, FRAME = 24_000, 1920
"""Samples a second, and in a frame of the codec."""
HOP, WINDOW, FFT = 120, 480, 1024
"""Samples between two spectra, in one, and with room for the envelope's echo."""
LOWEST, HIGHEST = 70.0, 420.0
"""Hz between which pitch is looked for."""
CYCLES = cycles_in_frame(RATE / FRAME)
"""What a frame may have: 87.5 to 325 Hz."""
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


def cycles_of(pitch: Float[np.ndarray, " N"], frames: int) -> Int[np.ndarray, " frames"]:
    """Cycles in each frame; 0 where it has no voice."""
    cycles = np.zeros(frames, int)
    each = FRAME // HOP
    for frame in range(frames):
        voiced = pitch[frame * each : (frame + 1) * each]
        voiced = voiced[voiced > 0]
        if len(voiced) >= VOICED_SPECTRA:
            nearest = round(np.median(voiced) * FRAME / RATE)
            cycles[frame] = np.clip(nearest, CYCLES[0], CYCLES[-1])
    return cycles


def pulses(cycles: Int[np.ndarray, " frames"]) -> Float[np.ndarray, " S"]:
    """One in the middle of each cycle, with all harmonics, of power 1."""
    spectra = np.zeros((len(cycles), FRAME // 2 + 1))
    for frame, count in enumerate(cycles):
        if count:
            harmonics = np.arange(1, FRAME // 2 // count + 1)
            spectra[frame, harmonics * count] = np.sqrt(2 / len(harmonics)) * (-1.0) ** harmonics
    return (np.fft.irfft(spectra, FRAME, axis=1) * FRAME / 2).reshape(-1)


def hiss() -> Float[np.ndarray, " frame"]:
    """Noise of power 1 with all harmonics of a frame alike: as often as it is played, it is white.

    One that is new in each frame could not be learned, and a decoder has nothing to draw it from.
    """
    phases = np.random.default_rng(NOISE_SEED).uniform(0, 2 * np.pi, FRAME // 2 + 1)
    phases[[0, -1]] = 0
    return np.fft.irfft(np.exp(1j * phases), FRAME) * np.sqrt(FRAME)


def lock(samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """The recording at a pitch of whole cycles in each frame, as loud as it was."""
    frames = -(-len(samples) // FRAME)
    padded = np.pad(samples, (0, frames * FRAME - len(samples)))
    pitch, power = analyse(padded)
    cycles = cycles_of(pitch, frames)
    count = len(pitch)
    voiced = (pitch > 0) & (cycles[np.minimum(np.arange(count) * HOP // FRAME, frames - 1)] > 0)
    smooth = np.convolve(np.pad(voiced.astype(float), 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    hertz = np.arange(FFT // 2 + 1) * RATE / FFT
    tone = smooth[:, None] * (1 - np.interp(hertz, NOISE[:, 0], NOISE[:, 1]) ** 2)

    taper = np.sqrt(np.hanning(WINDOW + 1)[:-1])
    places = np.arange(count)[:, None] * HOP + np.arange(WINDOW)
    spoken, hissed = (
        np.fft.rfft(np.pad(x, (WINDOW // 2, WINDOW))[places] * taper, FFT)
        for x in (pulses(cycles), np.tile(hiss(), frames))
    )
    made = np.fft.irfft(np.sqrt(power) * (np.sqrt(tone) * spoken + np.sqrt(1 - tone) * hissed), FFT)
    # The envelope has no phase: its echo lies on both sides of the window.
    made = np.roll(made, (FFT - WINDOW) // 2, axis=1)
    out = np.zeros((count - 1) * HOP + FFT)
    for place, piece in enumerate(made):
        out[place * HOP : place * HOP + FFT] += piece
    out = out[FFT // 2 : FFT // 2 + len(samples)]
    loudness = np.sqrt(np.mean(samples**2) / max(float(np.mean(out**2)), 1e-12))
    return (out * loudness).astype(np.float32)


def play(one: Utterance, out: Path, speed: float = 1.0) -> dict[str, Any] | None:
    """Writes a recording and its goal; its line of the manifest, or None if it is silent."""
    samples = read_utterance(one, RATE, speed)
    one = at_speed(one, speed)
    # Every corpus numbers its recordings from 0; codes of several are packed together.
    name = hashlib.sha256("\n".join((one.key, *one.texts)).encode()).hexdigest()[:16]
    if np.abs(samples).max() < SILENT:
        return None
    audio, goal = f"{one.language}/{name}.flac", f"{one.language}/{name}-goal.flac"
    (out / one.language).mkdir(parents=True, exist_ok=True)
    write_audio(out / audio, samples, RATE)
    write_audio(out / goal, lock(samples), RATE)
    return {
        "audio": audio,
        "goal": goal,
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
) -> None:
    """Plays one worker's share."""
    utterances = read_manifest(manifest, need_text=False).utterances[worker::workers]
    lines = out / f"lines-{worker}-of-{workers}.jsonl"
    done = {line["key"] for line in read_lines(lines)}
    wanted = [(one, at) for one in utterances for at in speed or [1.0]]
    left = [(one, at) for one, at in wanted if at_speed(one, at).key not in done]
    out.mkdir(parents=True, exist_ok=True)
    for one, at in track(left, f"worker {worker}: {len(left)} recordings"):
        line = play(one, out, at)
        if line is not None:
            append_line(lines, line)


if __name__ == "__main__":
    typer.run(main)
