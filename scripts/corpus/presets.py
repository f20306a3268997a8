"""Picks speakers of the corpus as preset voices: one clean recording each, named by how it sounds.

    python scripts/corpus/presets.py corpus/audio/train.jsonl corpus/presets \\
        --model models/nano --sentences corpus/texts.jsonl
    python train.py export --config configs/nano/export.toml presets=corpus/presets

Names say what was measured: a voice is deep or high, warm or bright, calm or brisk beside others of
its gender (pitch, spectral centroid) and language (sounds a second). A small model speaks clearly
in some voices and not in others: with `--model`, voices are those in which Whisper understands it
best. All candidates speak a few sentences, the best quarter of them more, and once again
(successive halving, arXiv 1502.07943). The clearest of a language speaks it by default;
`presets.json` may be edited before the export.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Float
from plan import read_texts
from understood import errors_in
from voices import FAST_GENDERS, FAST_VOICES, languages_of

from voxtral_jax import load_model
from voxtral_jax.audio import read_audio, to_mono
from voxtral_jax.audio.reference import sounding_spans
from voxtral_jax.files import read_lines, replacing
from voxtral_jax.presets import PRESETS_FILE
from voxtral_jax.progress import followed
from voxtral_jax.text.duration import estimate_seconds
from voxtral_jax.text.phonemes import LANGUAGES

SECONDS = (3.5, 6.0)
"""Length of a recording: enough for a voice, and a short prompt."""
OF_EACH = {"en": 2}
"""Voices of each gender in a language."""
OTHERS = 1
"""In the languages not named above."""
TAKES = 4
"""Recordings that are measured of a speaker."""
SPOKEN = (2.0, 6.5)
"""About how many seconds the sentences take that a model speaks in each voice."""
SENTENCES = (8, 24, 72)
"""How many it speaks in each voice by the end of each round."""
STAYING = 4
"""One in so many candidates of a gender and language stays in for the next round."""
WORDS = (("deep", "high"), ("warm", "bright"), ("calm", "brisk"))
"""Of low and high pitch, spectral centroid and pace."""
CLEAR = 0.5
"""A word is used beside the first if the voice is so many standard deviations from the mean."""
NEARLY = 0.03
"""Share of errors by which a voice is nearly as clear as another."""
GENDERS = {"f": "female", "m": "male"}
PITCHES = (60.0, 420.0)
"""Hz of a speaking voice."""
LOUD_DB = 25.0
"""Frames this far below the loudest are not measured."""
ORIGINS = {
    "kokoro": "synthetic: Kokoro-82M (Apache-2.0), speaker {}",
    "joe": "synthetic: Piper's joe (CC0), as {}",
    "pico": "synthetic: Pico (Apache-2.0), as {}",
    "mei": "synthetic: Open JTalk's mei (CC BY 3.0, Nagoya Institute of Technology), as {}",
}
"""By teacher; fast teachers have one voice for a language, at several pitches."""
HEARD = "heard.jsonl"
"""What was understood, beside the presets."""


@dataclass(frozen=True)
class Take:
    """A recording, its line in the manifest, and (pitch, centroid, pace)."""

    audio: Path
    line: dict[str, Any]
    sound: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class Candidate:
    """A speaker in one language.

    Attributes:
        errors: share that is heard wrongly of what a model speaks in this voice; None where nobody
            listened.
    """

    language: str
    speaker: str
    takes: list[Take]
    errors: float | None = None

    @property
    def gender(self) -> str:
        """`female` or `male`."""
        return GENDERS[gender_letter(self.speaker)]

    @property
    def unclear(self) -> float:
        """By which they are sorted: of equals, where nobody listened, the first comes first."""
        return 0.0 if self.errors is None else self.errors

    @property
    def sound(self) -> Float[np.ndarray, " 3"]:
        """Medians over the takes."""
        return np.median([take.sound for take in self.takes], axis=0)

    @property
    def typical(self) -> Take:
        """The take that is closest to the speaker's medians."""
        return min(self.takes, key=lambda take: float(np.abs(take.sound / self.sound - 1).sum()))


def teacher_of(speaker: str) -> str:
    """Whose voice it is."""
    for teacher, voices in FAST_VOICES.items():
        if any(speaker.startswith(voice) for voice in voices):
            return teacher
    return "kokoro"


def gender_letter(speaker: str) -> str:
    """`f` or `m`: blends begin with it (f012), Kokoro's own voices have it second (af_heart)."""
    own = speaker[1] if "_" in speaker else speaker[0]
    return FAST_GENDERS.get(teacher_of(speaker), own)


def is_native(speaker: str, language: str) -> bool:
    """Whether this is a voice made for this language, not a blend."""
    fast = teacher_of(speaker) in FAST_VOICES
    return fast or ("_" in speaker and language in languages_of(speaker))


def fitting(manifest: str, split: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Recordings of a fitting length, with their lines; real speech says no length, and is none."""
    for file in sorted(glob.glob(manifest)):
        for line in read_lines(Path(file)):
            fits = SECONDS[0] <= line.get("seconds", 0.0) <= SECONDS[1]
            if line.get("split") == split and fits and line["language"] in LANGUAGES:
                yield Path(file).parent / line["audio"], line


def measure(audio: Path, line: dict[str, Any]) -> Take:
    """Median pitch and spectral centroid in Hz of the loud frames, and sounds a second."""
    import librosa

    samples, rate = read_audio(audio)
    samples = to_mono(samples)
    size, hop = 2048, 512
    pitch = librosa.yin(
        samples, fmin=PITCHES[0], fmax=PITCHES[1], sr=rate, frame_length=size, hop_length=hop
    )
    centroid = librosa.feature.spectral_centroid(y=samples, sr=rate, n_fft=size, hop_length=hop)[0]
    power = librosa.feature.rms(y=samples, frame_length=size, hop_length=hop)[0]
    loud = power > power.max() * 10 ** (-LOUD_DB / 20)
    sounds = sum(unicodedata.category(c) in ("Ll", "Lu", "Lo") for c in line["phonemes"])
    spans = sounding_spans(samples, rate)
    spoken = float((spans[:, 1] - spans[:, 0]).sum()) / rate
    sound = [np.median(pitch[loud]), np.median(centroid[loud]), sounds / spoken]
    return Take(audio, line, np.array(sound))


def candidates(lines: list[tuple[Path, dict[str, Any]]], count: int) -> list[Candidate]:
    """The speakers worth measuring, each teacher's own and those with most recordings first.

    Args:
        lines: recordings of all.
        count: of a teacher and gender in a language.
    """
    found: dict[tuple[str, str], list[tuple[Path, dict[str, Any]]]] = {}
    for audio, line in lines:
        found.setdefault((line["language"], line["speaker"]), []).append((audio, line))
    ranked = sorted(found, key=lambda key: (not is_native(key[1], key[0]), -len(found[key]), key))
    counts: dict[tuple[str, str, str], int] = {}
    chosen = []
    for language, speaker in ranked:
        group = language, gender_letter(speaker), teacher_of(speaker)
        counts[group] = counts.get(group, 0) + 1
        if counts[group] <= count:
            chosen.append((language, speaker))
    return [
        Candidate(*key, [measure(*one) for one in found[key][:TAKES]])
        for key in followed(chosen, "candidates measured", len(chosen))
    ]


def sentences_of(texts: Path, languages: set[str], count: int) -> dict[str, list[str]]:
    """What a model is to speak in each language, `count` sentences at most.

    Args:
        texts: list of `texts.py`, of which the validation split is taken, in an order of chance.
    """
    every = read_texts(texts) if texts.exists() else {}
    found = {
        language: [
            text
            for text in every.get((language, "validation"), [])
            if SPOKEN[0] <= estimate_seconds(text) <= SPOKEN[1]
        ]
        for language in languages
    }
    missing = sorted(language for language, some in found.items() if not some)
    if missing:
        sys.exit(f"error: {texts} has no sentences of {SPOKEN} s in {', '.join(missing)}")
    return {
        language: sorted(some, key=lambda text: hashlib.sha256(text.encode()).digest())[:count]
        for language, some in found.items()
    }


def staying(every: list[Candidate], errors: dict[str, float]) -> list[Candidate]:
    """The best of each gender, with these errors by speaker; all are of one language."""
    heard = sorted(
        (replace(one, errors=errors[one.speaker]) for one in every), key=lambda one: one.unclear
    )
    kept = []
    for gender in GENDERS.values():
        group = [one for one in heard if one.gender == gender]
        # One more than is picked, so that there is something to pick from.
        least = OF_EACH.get(every[0].language, OTHERS) + 1
        kept += group[: max(least, -(-len(group) // STAYING))]
    return kept


def judged(
    every: list[Candidate], model: str, texts: dict[str, list[str]], known: Path
) -> list[Candidate]:
    """Those of the candidates in whose voices sentences are understood best, with their errors."""
    speaker, found = load_model(model), []
    for language in sorted(texts):
        left = [one for one in every if one.language == language]
        for count in SENTENCES:
            voices = {one.speaker: one.typical.audio for one in left}
            some = texts[language][:count]
            left = staying(left, errors_in(speaker, voices, some, language, known, model))
        found += left
    return found


def standing(every: list[Candidate]) -> dict[tuple[str, str], Float[np.ndarray, " 3"]]:
    """How far each is from the mean of its gender, and in pace of its language, in deviations."""

    def against(one: Candidate, others: list[Candidate], part: int) -> float:
        values = np.array([other.sound[part] for other in others])
        return float((one.sound[part] - values.mean()) / max(float(values.std()), 1e-9))

    result = {}
    for one in every:
        gender = [other for other in every if other.gender == one.gender]
        language = [other for other in every if other.language == one.language]
        result[one.language, one.speaker] = np.array(
            [against(one, gender, 0), against(one, gender, 1), against(one, language, 2)]
        )
    return result


def pick(heard: list[Candidate], every: list[Candidate]) -> list[Candidate]:
    """The voices: in each language the clearest of each gender, then the most different.

    Of equally clear ones the first; more are found among those that are nearly as clear.

    Args:
        heard: whom to pick from.
        every: whom they stand beside.
    """
    places = standing(every)
    picked: list[Candidate] = []
    for language in LANGUAGES:
        for gender in GENDERS.values():
            able = [c for c in heard if (c.language, c.gender) == (language, gender)]
            # A speaker is one preset, if there is another.
            taken = {one.speaker for one in picked}
            able = [c for c in able if c.speaker not in taken] or able
            count = OF_EACH.get(language, OTHERS)
            able.sort(key=lambda one: one.unclear)
            near = sum(one.unclear <= able[0].unclear + NEARLY for one in able)
            able = able[: max(count, near)]
            group: list[Candidate] = []
            while able and len(group) < count:

                def distance(one: Candidate, group: list[Candidate] = group) -> float:
                    here = places[one.language, one.speaker]
                    there = [places[other.language, other.speaker] for other in group]
                    return min((float(np.linalg.norm(here - p)) for p in there), default=0.0)

                group.append(max(able, key=distance))  # of equals, the first
                able.remove(group[-1])
            picked += group
    return picked


def words(place: Float[np.ndarray, " 3"]) -> list[str]:
    """What a voice is, the most striking first."""
    order = sorted(range(len(WORDS)), key=lambda part: -abs(place[part]))
    return [WORDS[part][int(place[part] > 0)] for part in order]


def describe(picked: list[Candidate], every: list[Candidate]) -> list[dict[str, Any]]:
    """Entries of `presets.json`."""
    places = standing(every)
    entries: list[dict[str, Any]] = []
    for one in picked:
        place = places[one.language, one.speaker]
        striking = words(place)
        taken = {entry["name"] for entry in entries}
        names = [f"{one.language}_{one.gender}_{word}" for word in striking]
        name = next((n for n in names if n not in taken), f"{names[0]}_{len(entries)}")
        clear = striking[: int((abs(place) >= CLEAR).sum())]
        take = one.typical
        pitch, centroid, pace = (round(float(value), 1) for value in take.sound)
        entries.append(
            {
                "name": name,
                "audio": name + take.audio.suffix,
                "language": one.language,
                "gender": one.gender,
                "character": ", ".join(clear[:2] or striking[:1]),
                "origin": ORIGINS[teacher_of(one.speaker)].format(one.speaker),
                "speaker": one.speaker,
                "text": take.line["text"],
                "seconds": take.line["seconds"],
                "pitch_hz": pitch,
                "centroid_hz": centroid,
                "sounds_per_second": pace,
            }
        )
        if one.errors is not None:
            entries[-1]["errors"] = round(one.errors, 3)
    for language in {entry["language"] for entry in entries}:
        own = [entry for entry in entries if entry["language"] == language]
        native = [entry for entry in own if is_native(entry["speaker"], language)]
        # Of equally clear ones the first.
        min(native or own, key=lambda entry: entry.get("errors", 0.0))["default_for"] = language
    return entries


def main(
    manifest: Annotated[str, typer.Argument(help="JSON lines of the corpus, or a pattern")],
    out: Annotated[Path, typer.Argument(help="folder of the presets")],
    split: Annotated[str, typer.Option(help="whose speakers are taken")] = "train",
    without: Annotated[
        list[str] | None, typer.Option(help="speaker who is not taken, several times")
    ] = None,
    model: Annotated[str | None, typer.Option(help="that is to be understood in them")] = None,
    sentences: Annotated[
        Path, typer.Option(help="list of texts.py, whose validation split it speaks")
    ] = Path("corpus/texts.jsonl"),
    candidates_of_each: Annotated[
        int, typer.Option("--candidates", min=1, help="of a teacher and gender in a language")
    ] = 40,
    languages: Annotated[
        list[str] | None, typer.Option("--language", help="only these, several times")
    ] = None,
) -> None:
    """Picks the presets, copies their recordings and describes them in `presets.json`."""
    lines = [
        (audio, line)
        for audio, line in fitting(manifest, split)
        if line["speaker"] not in (without or ()) and line["language"] in (languages or LANGUAGES)
    ]
    if not lines:
        span = f"{SECONDS[0]} to {SECONDS[1]} s"
        sys.exit(f"error: {manifest} has no recordings of {span} in the split {split!r}")
    out.mkdir(parents=True, exist_ok=True)
    every = candidates(lines, candidates_of_each)
    able = every
    if model is not None:
        texts = sentences_of(sentences, {one.language for one in every}, SENTENCES[-1])
        able = judged(every, model, texts, out / HEARD)
    picked = pick(able, every)
    entries = describe(picked, every)
    for one, entry in zip(picked, entries, strict=True):
        shutil.copyfile(one.typical.audio, out / entry["audio"])
        heard = "" if one.errors is None else f"{one.errors:4.0%}"
        print(f"{entry['name']:22} {entry['speaker']:12} {heard:4} {entry['character']}")
    text = json.dumps(entries, ensure_ascii=False, indent=2)
    with replacing(out / PRESETS_FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
