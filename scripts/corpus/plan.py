"""Who speaks which sentence: the same list for a seed, whatever the number of workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from voices import Speaker

from voxtral_jax.text.duration import estimate_seconds

SPEEDS = (0.9, 1.15)
"""Range of the speed, 1 is the voice's own."""
KEPT_APART = {"test": 0.04, "validation": 0.01}
"""Hours in a language of each split that training does not see, as shares of its training hours."""
LEAST_APART = {"test": 0.04, "validation": 0.01}
"""Hours at least."""


@dataclass(frozen=True)
class Line:
    """One recording to make.

    Attributes:
        name: of its file, without suffix.
        speed: 1 is the voice's own.
    """

    name: str
    text: str
    language: str
    speaker: Speaker
    split: str
    speed: float


def read_texts(texts: Path) -> dict[tuple[str, str], list[str]]:
    """Sentences of a list of `texts.py`, by language and split."""
    found: dict[tuple[str, str], list[str]] = {}
    with texts.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            found.setdefault((line["language"], line["split"]), []).append(line["text"])
    return found


def make_plan(
    texts: Path, speakers: list[Speaker], hours: dict[str, float], seed: int
) -> list[Line]:
    """All recordings, languages interleaved so that every part of the list holds all of them."""
    placed: list[tuple[float, Line]] = []
    for (language, split), found in sorted(read_texts(texts).items()):
        wanted = hours.get(language, 0.0)
        if split != "train":
            wanted = max(KEPT_APART[split] * wanted, LEAST_APART[split]) if wanted else 0.0
        able = [s for s in speakers if s.split == split and language in s.languages]
        if not able:
            continue
        random = np.random.default_rng([seed, *f"{language} {split}".encode()])
        chosen: list[Line] = []
        seconds = 0.0
        while seconds < wanted * 3600:
            # Sentences come again, from another speaker, where a language has too few.
            for place in random.permutation(len(found)):
                if seconds >= wanted * 3600:
                    break
                speaker = able[int(random.integers(len(able)))]
                speed = round(float(random.uniform(*SPEEDS)), 2)
                name = f"{language}/{speaker.name}/{split}-{len(chosen):05d}"
                chosen.append(Line(name, found[place], language, speaker, split, speed))
                seconds += estimate_seconds(found[place])
        placed += [((i + 0.5) / len(chosen), line) for i, line in enumerate(chosen)]
    # What training does not see comes first: evaluation needs all of it, whatever the hours.
    return [line for _, line in sorted(placed, key=lambda e: (e[1].split == "train", e[0]))]


def beyond(lines: list[Line], known: set[tuple[str, str]]) -> list[Line]:
    """Lines of training whose sentence (language, text) is not known."""
    return [
        line for line in lines if line.split == "train" and (line.language, line.text) not in known
    ]


def share(lines: list[Line], worker: int, workers: int, done: set[str]) -> Iterator[Line]:
    """What one worker has left to do."""
    return (line for line in lines[worker::workers] if line.name not in done)
