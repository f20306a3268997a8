"""From what a caller asks for to lines ready to be spoken; everything is checked here first."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtral_jax.cloning import make_voice
from voxtral_jax.decoder.prompt import MARKS, prompt_ids
from voxtral_jax.errors import RequestError, TextError
from voxtral_jax.flow import Sampler
from voxtral_jax.serving.lines import Line
from voxtral_jax.text import check, clean, frame_limits, language_of, split_text
from voxtral_jax.voice import Voice

if TYPE_CHECKING:
    from voxtral_jax.model import Model

LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to speak; the fields are the options of `synthesize`."""

    guidance: float | None = None
    noise_scale: float | None = None
    steps: int | None = None
    solver: str = "euler"
    temperature: float = 0.0
    top_p: float = 1.0
    max_seconds: float | None = None
    normalize_text: bool = True

    def __post_init__(self) -> None:
        for name, least, most in (
            ("guidance", 0.0, 20.0),
            ("noise_scale", 0.0, 2.0),
            ("temperature", 0.0, 10.0),
            ("top_p", 1e-6, 1.0),
            ("max_seconds", 0.1, 3600.0),
        ):
            value = getattr(self, name)
            if value is None and name in ("guidance", "noise_scale", "max_seconds"):
                continue
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                raise RequestError(f"{name} must be from {least} to {most}, got {value!r}")
        Sampler(self.solver, 1 if self.steps is None else self.steps)

    def sampler(self, model: Model) -> Sampler:
        """How the flow is integrated."""
        steps = model.config.flow.n_decoding_steps if self.steps is None else self.steps
        return Sampler(self.solver, steps, model.kernels)


@dataclass(frozen=True, eq=False)
class Utterance:
    """One text, ready to be spoken.

    Attributes:
        lines: its parts, in order.
        pauses: seconds after each.
        text_tokens: of all parts, without voice prompts.
    """

    lines: list[Line]
    pauses: list[float]
    text_tokens: int


def prepare(
    model: Model,
    texts: list[str],
    voice: Any,
    ref: Any,
    seed: Any,
    language: Any,
    options: Options,
) -> list[Utterance]:
    """Checks everything and turns texts into lines, before anything slow starts."""
    if not texts:
        raise TextError("there is no text to speak: the list is empty")
    if voice is not None and ref is not None:
        raise RequestError("give a voice or a reference recording, not both")
    cleaned = []
    for text in texts:
        check(text)
        cleaned.append(clean(text) if options.normalize_text else text)
        check(cleaned[-1])
    seeds = _each(seed, len(texts), "seed")
    for value in seeds:
        if not isinstance(value, int | np.integer) or not 0 <= value <= LARGEST_SEED:
            raise RequestError(f"seed must be an integer from 0 to {LARGEST_SEED}, got {value!r}")
    languages = _each(language, len(texts), "language")
    for name in languages:
        if name is not None and not isinstance(name, str):
            raise RequestError(f'language must be a code such as "en", got {name!r}')
    wanted = _each(voice, len(texts), "voice"), _each(ref, len(texts), "ref")
    for number, who in enumerate(zip(*wanted, strict=True)):
        unnamed = all(one is None for one in who)
        if languages[number] is None and (model.tokenizer.needs_language or unnamed):
            # Of the whole text: a short part alone tells too little.
            languages[number] = language_of(cleaned[number])
    voices = _voices(model, *wanted, languages)
    return [
        _utterance(model, text, one, int(value), name, options)
        for text, one, value, name in zip(cleaned, voices, seeds, languages, strict=True)
    ]


def _each(value: Any, count: int, name: str) -> list[Any]:
    """One value for each text: those of a list, anything else repeated; a pair is one recording."""
    if not isinstance(value, list | tuple) or (name == "ref" and isinstance(value, tuple)):
        return [value] * count
    if len(value) != count:
        raise RequestError(f"{name}: {len(value)} values for {count} texts")
    return [*value]


def _voices(
    model: Model, voices: list[Any], refs: list[Any], languages: list[str | None]
) -> list[Voice]:
    """The voice of each text; a preset is read and a recording encoded only once."""
    known: dict[Any, Voice] = {}

    def find(voice: Any, ref: Any, language: str | None) -> Voice:
        if isinstance(voice, Voice):
            voice.check(model.config)
            return voice
        if not isinstance(voice, str | None):
            raise RequestError(f"voice must be a preset's name or a Voice, got {voice!r}"[:200])
        if ref is not None:
            key: Any = (id(ref) if isinstance(ref, tuple) else str(ref), "ref")
        else:
            key = (language, "default") if voice is None else voice
        if key not in known:
            if ref is None:
                known[key] = model.voice(voice, language=language)
            else:
                known[key] = make_voice(model, ref)
        return known[key]

    return [find(*one) for one in zip(voices, refs, languages, strict=True)]


def _utterance(
    model: Model, text: str, voice: Voice, seed: int, language: str | None, options: Options
) -> Utterance:
    config = model.config
    lines, pauses, tokens = [], [], 0
    for part in split_text(text, config.part_seconds, language):
        limits = frame_limits(part.text, config.codec.frame_rate)
        most = limits.maximum
        if options.max_seconds is not None:
            most = max(1, min(most, round(options.max_seconds * config.codec.frame_rate)))
        ids = prompt_ids(config, model.tokenizer, part.text, len(voice.embedding), language)
        if len(ids) + most > config.max_position_embeddings:
            raise TextError(
                f"voice prompt, text and speech may take {len(ids) + most} tokens, the model has "
                f"room for {config.max_position_embeddings}; use a shorter reference"
            )
        lines.append(
            Line(
                ids=ids,
                voice=voice.embedding,
                seed=seed,
                least_frames=min(limits.minimum, most),
                most_frames=most,
                guidance=config.guidance if options.guidance is None else options.guidance,
                noise_scale=(
                    config.noise_scale if options.noise_scale is None else options.noise_scale
                ),
                temperature=options.temperature,
                top_p=options.top_p,
            )
        )
        pauses.append(part.pause_after)
        tokens += len(ids) - len(voice.embedding) - MARKS
    return Utterance(lines, pauses, tokens)
