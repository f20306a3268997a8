"""What is to be heard: the set's recordings, their resynthesis, speech in several conditions."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from voxtral_jax.errors import ConfigError
from voxtral_jax.evaluation.sets import HOME, Reference, Sentence, find_reference, limited
from voxtral_jax.text.duration import estimate_seconds

RECORDING, CODEC, PRESET, CLONE, CROSS, LONG = (
    "recording",
    "codec",
    "preset",
    "clone",
    "cross",
    "long",
)
CONDITIONS = (RECORDING, CODEC, PRESET, CLONE, CROSS, LONG)
REFERENCE = "reference"
"""Kind of the recordings that are cloned; they are embedded, not judged."""
LONG_SECONDS = 60.0
"""Estimated length of the long texts."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is said, how, and in whose voice.

    Attributes:
        name: of its file below `audio/`, without suffix.
        condition: one of `CONDITIONS`, with the seconds of the reference behind clone and cross.
        text, language, speaker: what is said, and whose voice it should be.
        voice: preset that speaks.
    """

    name: str
    condition: str
    text: str
    language: str
    speaker: str
    voice: str | None = None

    @property
    def kind(self) -> str:
        """The condition without its seconds."""
        return self.condition.partition("-")[0]


@dataclass(frozen=True, kw_only=True)
class Take(Line):
    """One recording to make.

    Attributes:
        reference: recording whose voice speaks, or that lies there as a reference itself.
        source: the sentence whose recording is taken.
    """

    reference: Reference | None = None
    source: Sentence | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Clip(Line):
    """A take that was made: a line of `spoken.jsonl`.

    Attributes:
        reference, original: names of the clips that it is compared with, if any.
        seconds: of audio; 0 if there is none.
        finish_reason: of speech, as `Speech` has it.
        failure: why there is no audio.
    """

    reference: str | None = None
    original: str | None = None
    seconds: float = 0.0
    finish_reason: str | None = None
    failure: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without what is unset."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def reference_name(reference: Reference) -> str:
    """Name of the clip that a reference becomes."""
    return f"{REFERENCE}/{reference.name}"


def recording_name(sentence: Sentence) -> str:
    """Name of the clip that a sentence's recording becomes."""
    return f"{RECORDING}/{sentence.key}"


def seed_of(name: str, seed: int) -> int:
    """A take's own seed, the same in every run."""
    return (zlib.crc32(name.encode()) + seed) % 2**32


def preset_for(language: str, number: int, voices: Mapping[str, str]) -> str:
    """The preset that speaks a sentence: those of its language take turns.

    Those of no language speak English; a language without presets is spoken by all.

    Args:
        language: of the sentence.
        number: of the sentence in its language.
        voices: presets, and the language of each, which may be empty.
    """
    own = [name for name, of in voices.items() if (of or HOME) == language]
    able = sorted(own or voices)
    return able[number % len(able)]


def check_conditions(conditions: Sequence[str]) -> None:
    """Raises ConfigError if one is unknown."""
    for condition in conditions:
        if condition not in CONDITIONS:
            raise ConfigError(
                f"unknown condition {condition!r}; choose from {', '.join(CONDITIONS)}"
            )


def make_takes(
    sentences: Sequence[Sentence],
    *,
    conditions: Sequence[str],
    voices: Mapping[str, str],
    lengths: Sequence[float] = (3.0, 10.0),
    limit: int | None = None,
    long_texts: int = 1,
    can_clone: bool = True,
) -> list[Take]:
    """All recordings to make, references first.

    Args:
        sentences: the whole set: those beyond `limit` are references still.
        conditions: of `CONDITIONS`.
        voices: the model's presets, and the language of each.
        lengths: seconds of the references, where the set names no prompts.
        limit: sentences of each language.
        long_texts: long texts of each language.
        can_clone: whether long texts may be spoken in cloned voices.
    """
    check_conditions(conditions)
    chosen = limited(sentences, limit)
    takes: list[Take] = []
    counts: dict[str, int] = {}
    for sentence in chosen:
        number = counts[sentence.language] = counts.get(sentence.language, -1) + 1
        # What is resynthesised is compared with its recording.
        if {RECORDING, CODEC} & set(conditions) and sentence.audio:
            takes.append(_take(RECORDING, sentence, source=sentence))
        if CODEC in conditions and sentence.audio:
            takes.append(_take(CODEC, sentence, source=sentence))
        if PRESET in conditions and voices:
            voice = preset_for(sentence.language, number, voices)
            takes.append(_take(PRESET, sentence, voice=voice))
        for condition, reference in _references(sentences, sentence, conditions, lengths):
            takes.append(_take(condition, sentence, reference=reference))
    if LONG in conditions:
        takes += _long(sentences, voices, lengths, long_texts, can_clone=can_clone)
    references = {take.reference for take in takes if take.reference is not None}
    references |= _line_up(sentences, references)
    first = [
        Take(
            name=reference_name(reference),
            condition=REFERENCE if reference.limit is None else f"{REFERENCE}-{reference.limit:g}s",
            text="",
            language=reference.language,
            speaker=reference.speaker,
            reference=reference,
        )
        for reference in sorted(references, key=lambda reference: reference.name)
    ]
    return first + takes


def _take(condition: str, sentence: Sentence, **how: Any) -> Take:
    return Take(
        name=f"{condition}/{sentence.key}",
        condition=condition,
        text=sentence.text,
        language=sentence.language,
        speaker=sentence.speaker,
        **how,
    )


def _references(
    sentences: Sequence[Sentence],
    sentence: Sentence,
    conditions: Sequence[str],
    lengths: Sequence[float],
) -> Iterator[tuple[str, Reference]]:
    """Conditions in which the sentence's speaker is cloned, and from what."""
    if sentence.prompt is not None:
        if CLONE in conditions:
            files = (sentence.prompt,)
            yield CLONE, Reference(sentence.speaker, sentence.language, files, None)
        return
    for kind, language in ((CLONE, sentence.language), (CROSS, HOME)):
        if kind not in conditions or (kind == CROSS and sentence.language == HOME):
            continue
        for seconds in dict.fromkeys(lengths):
            reference = find_reference(sentences, sentence, language, seconds)
            if reference is not None:
                yield f"{kind}-{seconds:g}s", reference


def _line_up(sentences: Sequence[Sentence], references: set[Reference]) -> set[Reference]:
    """References alike of all speakers of the set: among them a cloned voice is to be found."""
    speakers = {sentence.speaker for sentence in sentences}
    found = set()
    for language, limit in {(reference.language, reference.limit) for reference in references}:
        for speaker in speakers:
            anyone = Sentence(key="", text="", language=language, speaker=speaker)
            prompts = [s for s in sentences if s.speaker == speaker and s.prompt is not None]
            if limit is not None:
                found.add(find_reference(sentences, anyone, language, limit))
            elif prompts and prompts[0].language == language and prompts[0].prompt is not None:
                found.add(Reference(speaker, language, (prompts[0].prompt,), None))
    return {reference for reference in found if reference is not None}


def _long(
    sentences: Sequence[Sentence],
    voices: Mapping[str, str],
    lengths: Sequence[float],
    texts: int,
    *,
    can_clone: bool,
) -> Iterator[Take]:
    """Texts of about a minute, of sentences in a row; in the first speaker's voice, or a preset."""
    cloned = (CLONE,) if can_clone else ()
    for language in dict.fromkeys(sentence.language for sentence in sentences):
        pool = [sentence for sentence in sentences if sentence.language == language]
        for number in range(texts):
            parts: list[str] = []
            start = number * len(pool) // max(1, texts)
            for sentence in pool[start:]:
                if estimate_seconds(" ".join(parts)) >= LONG_SECONDS:
                    break
                parts.append(sentence.text)
            first = pool[start]
            found = [r for _, r in _references(sentences, first, cloned, lengths)]
            if not found and not voices:
                continue
            yield Take(
                name=f"{LONG}/{language}-{number}",
                condition=LONG,
                text=" ".join(part if part[-1] in ".!?。！？…" else f"{part}." for part in parts),
                language=language,
                speaker=first.speaker,
                voice=None if found else preset_for(language, number, voices),
                reference=found[-1] if found else None,
            )
