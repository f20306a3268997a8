"""Measures the watermark: how often it is found, how often wrongly, what it does to the sound.

    python benchmarks/watermark.py --recordings data/nano/test.jsonl --out FILE.json

Needs PyAV (`av`: LAME and libopus at exact bit rates) and `pesq`.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer
from pesq import pesq
from rich.progress import track

from voxtral_jax.audio import read_audio, resample, to_mono
from voxtral_jax.files import read_lines, replacing
from voxtral_jax.watermark import Detection, Watermark, detect, embed
from voxtral_jax.watermark.detection import FALSE_POSITIVES, SHIFTS, remainders, scores
from voxtral_jax.watermark.pattern import KEY, PERIOD, STRENGTH, signs

RATE = 24_000
SECONDS = (2.0, 3.0, 5.0, 10.0)
Sound = tuple[np.ndarray, int]
"""Samples [S] and rate."""
CODERS = {"MP3": ("mp3", "libmp3lame"), "Opus": ("ogg", "libopus")}
"""Container and encoder, as FFmpeg's libraries name them."""


def coded(samples: np.ndarray, coder: str, kbit: int, rate: int = RATE) -> Sound:
    """The samples encoded at a constant bit rate, and decoded."""
    (container, encoder), file = CODERS[coder], io.BytesIO()
    with av.open(file, "w", format=container) as target:
        stream = target.add_stream(encoder, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = kbit * 1000
        whole = (np.clip(samples, -1, 1) * 32767).round().astype("<i2")
        frame = av.AudioFrame.from_ndarray(whole[None], format="s16", layout="mono")
        frame.sample_rate = rate
        fitting = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
        for part in [*fitting.resample(frame), None]:
            for packet in stream.encode(part):
                target.mux(packet)
    file.seek(0)
    decoded, rate = read_audio(file)
    return to_mono(decoded), rate


def louder(samples: np.ndarray, decibels: float) -> Sound:
    """Clipped where it is too loud, in 16 bits."""
    changed = np.clip(samples * 10 ** (decibels / 20), -1, 1)
    return (changed * 32767).round().astype(np.int16), RATE


def noisy(samples: np.ndarray) -> Sound:
    """White noise 20 dB below the speech."""
    noise = np.random.default_rng(0).normal(size=len(samples))
    return (samples + noise * 0.1 * np.sqrt((samples**2).mean())).astype(np.float32), RATE


def telephone(samples: np.ndarray) -> Sound:
    """8 kHz, 8 bits by mu-law."""
    narrow = resample(samples, RATE, 8000)
    bent = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)
    bent = np.round(bent * 127) / 127
    return (np.sign(bent) * (256 ** np.abs(bent) - 1) / 255).astype(np.float32), 8000


def shared(samples: np.ndarray) -> Sound:
    """As sound travels: MP3, then 16 kHz, then a messenger's Opus, all a little quieter."""
    first, rate = coded(samples, "MP3", 64)
    return coded(0.7 * resample(first, rate, 16_000), "Opus", 24, 16_000)


ATTACKS: dict[str, Callable[[np.ndarray], Sound]] = {
    "crop alone": lambda samples: (samples, RATE),
    "MP3 64 kbit/s": lambda samples: coded(samples, "MP3", 64),
    "MP3 32 kbit/s": lambda samples: coded(samples, "MP3", 32),
    "Opus 24 kbit/s": lambda samples: coded(samples, "Opus", 24),
    "Opus 16 kbit/s": lambda samples: coded(samples, "Opus", 16),
    "resampled to 16 kHz": lambda samples: (resample(samples, RATE, 16_000), 16_000),
    "resampled to 48 kHz": lambda samples: (resample(samples, RATE, 48_000), 48_000),
    "-20 dB, 16 bit": lambda samples: louder(samples, -20),
    "+12 dB, clipped": lambda samples: louder(samples, 12),
    "white noise at -20 dB": noisy,
    "telephone (8 kHz, mu-law)": telephone,
    "0.1% faster": lambda samples: (resample(samples, RATE, 23_976), RATE),
    "MP3 64, 16 kHz, Opus 24": shared,
}
UNMARKED = ("crop alone", "MP3 64 kbit/s", "Opus 24 kbit/s")
"""What is done to unmarked sound."""
ASKED = (
    *UNMARKED,
    "resampled to 16 kHz",
    "resampled to 48 kHz",
    "-20 dB, 16 bit",
    "+12 dB, clipped",
)
"""What the mark must survive; the other attacks show its limits."""
OTHER_KEYS = 20
"""Keys that each unmarked sound is searched for beside the public one."""


def joined(file: Path, count: int, seconds: float) -> list[np.ndarray]:
    """`count` sounds of at least so many seconds: recordings of one speaker after one another."""
    speakers: dict[tuple[str, str], list[str]] = {}
    for line in read_lines(file):
        speakers.setdefault((line["language"], line["speaker"]), []).append(line["audio"])
    random = np.random.default_rng(0)
    sounds = []
    for number in range(count):
        names = list(speakers.values())[number % len(speakers)]
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < seconds * RATE:
            samples, rate = read_audio(file.parent / names[random.integers(len(names))])
            parts.append(resample(to_mono(samples), rate, RATE))
        sounds.append(np.concatenate(parts))
    return sounds


def crops(sound: np.ndarray, rate: int, random: np.random.Generator) -> dict[float, np.ndarray]:
    """Seconds -> so much of the sound, from anywhere in it."""
    cut = {}
    for seconds in SECONDS:
        count = min(len(sound), int(seconds * rate))
        start = random.integers(len(sound) - count + 1)
        cut[seconds] = sound[start : start + count]
    return cut


def changed(
    sound: np.ndarray, attacks: list[str], random: np.random.Generator
) -> list[tuple[str, float, Sound]]:
    """Attack, seconds and what it makes of crops: cut anywhere, changed, and cut anywhere again."""
    longest = crops(sound, RATE, random)[max(SECONDS)]
    found = []
    for name in attacks:
        samples, rate = ATTACKS[name](longest)
        for seconds, crop in crops(samples, rate, random).items():
            found.append((name, seconds, (crop, rate)))
    return found


def marked_trials(job: tuple[int, np.ndarray]) -> list[tuple[str, float, Detection]]:
    """What is found in one marked sound: all attacks on every fourth, else those of the task."""
    number, sound = job
    attacks = list(ATTACKS) if number % 4 == 0 else list(ASKED)
    random = np.random.default_rng((1, number))
    trials = changed(embed(sound, RATE), attacks, random)
    return [(name, seconds, detect(*crop)) for name, seconds, crop in trials]


def unmarked_trials(job: tuple[int, np.ndarray]) -> list[tuple[Detection, list[float]]]:
    """What is found in one unmarked sound: with the public key, and the scores of other keys."""
    number, sound = job
    patterns = [np.fft.rfft(signs(f"{number}, {other}"), axis=0) for other in range(OTHER_KEYS)]
    trials = []
    for _, _, crop in changed(sound, list(UNMARKED), np.random.default_rng((2, number))):
        cells = list(remainders(*crop))
        others = [max(float(scores(shift, one).max()) for shift in cells) for one in patterns]
        trials.append((detect(*crop), others))
    return trials


def detection_rates(trials: list[tuple[str, float, Detection]]) -> dict[str, Any]:
    """Attack -> seconds -> share found, and mean and lowest score."""
    rates: dict[str, Any] = {name: {} for name in ATTACKS}
    for name in ATTACKS:
        for seconds in SECONDS:
            some = [
                found for attack, length, found in trials if (attack, length) == (name, seconds)
            ]
            rates[name][f"{seconds:g} s"] = {
                "trials": len(some),
                "found": round(float(np.mean([one.present for one in some])), 4),
                "mean score": round(float(np.mean([one.score for one in some])), 2),
                "lowest score": round(min(one.score for one in some), 2),
            }
    return rates


def false_positives(trials: list[tuple[Detection, list[float]]]) -> dict[str, Any]:
    """How the public key and the others fared, against what the bound allows."""
    public = [found for found, _ in trials]
    others = np.array([score for _, scores in trials for score in scores])
    bound = np.minimum(1, SHIFTS * PERIOD * np.exp(-(others**2) / 2))
    return {
        "attacks": list(UNMARKED),
        "threshold": FALSE_POSITIVES,
        "public key": {
            "trials": len(public),
            "found": sum(one.present for one in public),
            "highest score": round(max(one.score for one in public), 2),
            "lowest p-value": min(one.p_value for one in public),
        },
        "other keys": {
            "trials": len(others),
            "found": int((bound <= FALSE_POSITIVES).sum()),
            "mean score": round(float(others.mean()), 2),
            "highest score": round(float(others.max()), 2),
            "share with a p-value of at most": {
                f"{level:g}": float((bound <= level).mean()) for level in (0.1, 0.01, 0.001, 1e-4)
            },
        },
    }


def parts_of_long_sounds(sounds: list[np.ndarray]) -> dict[str, Any]:
    """10 marked seconds somewhere in a minute that is not marked, after Opus."""
    random = np.random.default_rng(3)
    found = []
    for first in range(0, len(sounds) - 3, 4):
        minute = np.concatenate(sounds[first : first + 4])[: 60 * RATE]
        start = random.integers(len(minute) - 10 * RATE)
        part = slice(start, start + 10 * RATE)
        minute[part] = embed(minute[part], RATE)
        found.append(detect(*ATTACKS["Opus 24 kbit/s"](minute)).present)
    return {"found": float(np.mean(found)), "trials": len(found)}


def quality(sounds: list[np.ndarray]) -> dict[str, Any]:
    """PESQ (wide band, at most 4.64) and the level of the change."""
    rows = []
    for sound in track(sounds, "quality"):
        sound = sound[: 8 * RATE]
        marked = embed(sound, RATE)
        alike = pesq(16_000, resample(sound, RATE, 16_000), resample(marked, RATE, 16_000), "wb")
        codec, rate = coded(sound, "Opus", 24)
        worse = pesq(16_000, resample(sound, RATE, 16_000), resample(codec, rate, 16_000), "wb")
        change = 10 * math.log10((sound**2).sum() / ((marked - sound) ** 2).sum())
        loudness = 10 * math.log10((marked**2).sum() / (sound**2).sum())
        rows.append((alike, worse, change, loudness))
    alike, worse, change, loudness = np.array(rows).T
    return {
        "sounds": len(rows),
        "PESQ mean": round(float(alike.mean()), 3),
        "PESQ lowest": round(float(alike.min()), 3),
        "PESQ of Opus 24 kbit/s alone, mean": round(float(worse.mean()), 3),
        "speech over change, dB": round(float(change.mean()), 2),
        "change of level, dB": round(float(np.abs(loudness).max()), 2),
    }


def cost(sound: np.ndarray) -> dict[str, float]:
    """Processor seconds for a second of sound, one thread or as many as NumPy takes."""
    sound = np.tile(sound, 3)[: 30 * RATE]
    mark, took = Watermark(RATE), {}
    mark.embed(sound)
    for name, chunk in (("marking, chunks of 80 ms", 1920), ("marking, at once", len(sound))):
        begun, state = time.process_time(), mark.begin()
        for start in range(0, len(sound), chunk):
            _, state = mark.push(sound[start : start + chunk], state)
        took[name] = round((time.process_time() - begun) / 30, 5)
    begun = time.process_time()
    detect(sound, RATE)
    took["detection"] = round((time.process_time() - begun) / 30, 5)
    begun = time.process_time()
    Watermark(RATE)
    took["designing the filters, once, seconds"] = round(time.process_time() - begun, 4)
    return took


def main(
    recordings: Annotated[Path, typer.Option(help="Manifest with language and speaker.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    count: Annotated[int, typer.Option(help="Sounds, 15 s or longer.")] = 204,
) -> None:
    """Measures everything and writes it to a file."""
    sounds = joined(recordings, count, max(SECONDS) + 5)
    result = {
        "recordings": f"{recordings}, those of a speaker joined",
        "key": KEY,
        "strength, dB": STRENGTH,
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "cost, processor seconds for a second of sound": cost(sounds[0]),
        "quality": quality(sounds[: count // 8]),
        "10 of 60 s marked, Opus 24 kbit/s": parts_of_long_sounds(sounds[: count // 2]),
    }
    jobs = list(enumerate(sounds))
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        marked = track(workers.map(marked_trials, jobs), "marked", count)
        result["detection"] = detection_rates([trial for some in marked for trial in some])
        unmarked = track(workers.map(unmarked_trials, jobs), "unmarked", count)
        result["false positives"] = false_positives([trial for some in unmarked for trial in some])
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
