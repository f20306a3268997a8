"""Speakers: Kokoro's voices and blends of two of them; and fast voices played at many pitches.

The mean of two voices is a new, plausible speaker that keeps its identity across languages, so the
corpus has as many speakers as it needs, and each speaks English and other languages. The other
teachers have one voice for a language, which becomes another speaker when it is played faster.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from voxtral_jax.errors import ConfigError

ORIGINS = {"a": "en", "b": "en", "e": "es", "f": "fr", "i": "it", "j": "ja", "p": "pt", "z": "zh"}
"""First letter of a voice's name to the language it was made from; Hindi is none of ours."""
ADOPTED = {"de": ("am_fenrir", "bm_george"), "ko": ("jm_kumo", "jf_alpha")}
"""Voices that speak a language for which there is none."""
SAME = {"em_santa": "pm_santa", "pf_dora": "ef_dora", "pm_alex": "em_alex"}
"""Near duplicates, and the voice that is kept."""
BLENDS = 150
"""Blended speakers that train, beside the plain voices."""
TESTS, VALIDATIONS = 12, 6
"""Blended speakers that training never hears, of two voices that nobody else is blended of."""
OTHERS = 2
"""Languages of a blended speaker beside English, at least."""
ATTEMPTS = 1000
"""Draws until there must be two voices that nobody is blended of."""
FAST_VOICES = {
    "joe": {"joe": "en"},
    "pico": {
        **{"en-US": "en", "en-GB": "en", "de-DE": "de"},
        **{"es-ES": "es", "fr-FR": "fr", "it-IT": "it"},
    },
    "mei": {"mei": "ja"},
}
"""Teachers that are much faster than Kokoro, with the languages of their voices."""
LOWEST = {"joe": 0.86, "pico": 0.76, "mei": 0.76}
"""Slowest that they are played; a man less slowly than women."""
FAST_GENDERS = {"joe": "m", "pico": "f", "mei": "f"}
PITCHES, STEP = 10, 0.05
"""How many pitches a fast voice has, and how far apart they are."""


@dataclass(frozen=True)
class Speaker:
    """One speaker.

    Attributes:
        name: plain voices keep theirs; blends are numbered, with a letter for the gender.
        parts: voices that are averaged, with their weights.
        languages: what the speaker speaks.
        split: train, validation or test.
    """

    name: str
    parts: tuple[tuple[str, float], ...]
    languages: tuple[str, ...]
    split: str


def languages_of(voice: str) -> set[str]:
    """Languages that a voice speaks as its own."""
    adopted = {language for language, voices in ADOPTED.items() if voice in voices}
    return adopted | ({ORIGINS[voice[0]]} if voice[0] in ORIGINS else set())


def make_speakers(voices: Sequence[str]) -> list[Speaker]:
    """All speakers: the same list at all times, so that a name means one voice, in one split.

    Args:
        voices: names of the voices at hand.

    Raises:
        ConfigError: there are too few for blends that only one split has.
    """
    random = np.random.default_rng(0)
    plain = sorted(voice for voice in voices if languages_of(voice) and voice not in SAME)
    languages = sorted({language for voice in plain for language in languages_of(voice)})
    speakers = [
        Speaker(voice, ((voice, 1.0),), tuple(sorted(languages_of(voice) | {"en"})), "train")
        for voice in plain
    ]
    pairs: set[frozenset[str]] = set()
    splits = ["train"] * BLENDS + ["test"] * TESTS + ["validation"] * VALIDATIONS
    for number, split in enumerate(splits):
        # Each language leads in its turn, so that rare ones have as many speakers as others.
        leading = languages[number % len(languages)]
        first, second = _two_of(plain, leading, random, set() if split == "train" else pairs)
        pairs.add(frozenset((first, second)))
        weight = round(float(random.uniform(0.35, 0.65)), 2)
        spoken = languages_of(first) | languages_of(second) | {"en"}
        missing = [language for language in languages if language not in spoken]
        # Those kept apart speak everything: cloning is judged in and across all languages.
        more = max(0, OTHERS + 1 - len(spoken)) if split == "train" else len(missing)
        spoken |= set(random.permutation(missing)[:more].tolist())
        parts = ((first, weight), (second, round(1 - weight, 2)))
        speakers.append(Speaker(f"{first[1]}{number:03d}", parts, tuple(sorted(spoken)), split))
    return speakers


def _two_of(
    plain: Sequence[str], leading: str, random: np.random.Generator, taken: Set[frozenset[str]]
) -> tuple[str, str]:
    """A voice that speaks this language as its own, and another of its gender; not `taken` ones."""
    for _ in range(ATTEMPTS):
        first = str(random.choice([v for v in plain if leading in languages_of(v)]))
        second = str(random.choice([v for v in plain if v[1] == first[1] and v != first]))
        if frozenset((first, second)) not in taken:
            return first, second
    raise ConfigError(f"{len(plain)} voices are too few for speakers that training never hears")


def only_presets(speakers: Sequence[Speaker], presets: Path) -> list[Speaker]:
    """Those who are preset voices, with the languages in which they are.

    Args:
        presets: folder with `presets.json`, as `presets.py` makes it.
    """
    # Here, as it brings jax along, which no other part of speaking needs.
    from voxtral_jax.presets import PRESETS_FILE

    entries = json.loads((presets / PRESETS_FILE).read_text(encoding="utf-8"))
    pairs = {(entry["speaker"], entry["language"]) for entry in entries}
    preset = [
        replace(one, languages=tuple(x for x in one.languages if (one.name, x) in pairs))
        for one in speakers
    ]
    return [one for one in preset if one.languages]


def fast_speakers(teacher: str) -> list[Speaker]:
    """A fast teacher's voices at each pitch, their part's weight; all of them are for training."""
    pitches = [round(LOWEST[teacher] + STEP * i, 2) for i in range(PITCHES)]
    return [
        Speaker(f"{voice}{round(100 * pitch):03d}", ((voice, pitch),), (language,), "train")
        for voice, language in FAST_VOICES[teacher].items()
        for pitch in pitches
    ]


def load_voices(directory: Path) -> dict[str, Float[np.ndarray, "510 256"]]:
    """Kokoro's styles, one for each number of tokens, from a folder of `.bin` files."""
    return {
        file.stem: np.fromfile(file, np.float32).reshape(510, 256)
        for file in sorted(directory.glob("*.bin"))
    }
