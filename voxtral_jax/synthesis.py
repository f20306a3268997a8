"""Text and voice to speech: composes prompt, decoder, flow and codec.

`synthesize` speaks all parts of all texts as one batch; `stream` speaks one part after the other
and hands out what there is. Noise depends on seed and frame alone, so both say the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from voxtral_jax.audio import PartJoiner
from voxtral_jax.cloning import Reference, make_voice
from voxtral_jax.codec.run import opening_frames
from voxtral_jax.decoder.prompt import prompt_ids
from voxtral_jax.errors import RequestError, TextError
from voxtral_jax.flow import Sampler
from voxtral_jax.runner import Chunk, Line, speak
from voxtral_jax.speech import FinishReason, Speech, Timings
from voxtral_jax.text import check, clean, frame_limits, split_text
from voxtral_jax.voice import Voice

if TYPE_CHECKING:
    from voxtral_jax.model import Model

MOST_LINES = 32
"""Parts generated together; more are taken in turns, longest first."""
CHUNK_FRAMES = 8
"""Frames decoded together (0.64 s): small enough to stream, large enough to keep a GPU busy."""
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to speak; the fields are the options of `synthesize`."""

    guidance: float = 1.2
    steps: int | None = None
    solver: str = "euler"
    temperature: float = 0.0
    top_p: float = 1.0
    max_seconds: float | None = None
    normalize_text: bool = True

    def __post_init__(self) -> None:
        for name, least, most in (
            ("guidance", 0.0, 20.0),
            ("temperature", 0.0, 10.0),
            ("top_p", 1e-6, 1.0),
            ("max_seconds", 0.1, 3600.0),
        ):
            value = getattr(self, name)
            if value is None and name == "max_seconds":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                raise RequestError(f"{name} must be from {least} to {most}, got {value!r}")
        Sampler(self.solver, 1 if self.steps is None else self.steps)

    def sampler(self, model: Model) -> Sampler:
        """How the flow is integrated."""
        steps = model.config.flow.n_decoding_steps if self.steps is None else self.steps
        return Sampler(self.solver, steps, model.kernels)


@dataclass(frozen=True, eq=False)
class _Utterance:
    """One text, ready to be spoken: its lines, and the pause after each in seconds."""

    lines: list[Line]
    pauses: list[float]


@overload
def synthesize(model: Model, text: str, **options: Any) -> Speech: ...


@overload
def synthesize(model: Model, text: Sequence[str], **options: Any) -> list[Speech]: ...


# The overloads say what comes back; what can be asked for stands here alone.
def synthesize(  # type: ignore[misc]
    model: Model,
    text: str | Sequence[str],
    *,
    voice: str | Voice | Sequence[str | Voice] | None = None,
    ref: Reference | Sequence[Reference] | None = None,
    seed: int | Sequence[int] = 0,
    guidance: float = 1.2,
    steps: int | None = None,
    solver: str = "euler",
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_seconds: float | None = None,
    normalize_text: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> Speech | list[Speech]:
    """Speaks a text, or a list of texts as one batch.

    Long texts are split at sentences; the parts are spoken with the same voice and joined.

    Args:
        model: from `load_model`.
        text: one text or several, in any of the model's languages.
        voice: name of a preset (see `model.voices`) or a `Voice`; a list gives each text its own.
            Without voice and ref the model's default preset speaks.
        ref: recording to clone, a file or (samples, rate); a list gives each text its own.
        seed: 0 to 2^32 - 1; the same seed gives the same audio, alone or in any batch.
        guidance: how closely the flow follows the decoder; 1 is no guidance.
        steps: of the flow; the checkpoint's own number by default.
        solver: "euler", or "midpoint" with two evaluations a step.
        temperature: of the semantic code; 0 takes the likeliest.
        top_p: share of the probability drawn from at a temperature.
        max_seconds: cuts the speech; a budget from the text's length applies in any case.
        normalize_text: clean up markup, emoji and odd white space first.
        on_progress: called with the seconds of audio made so far.

    Returns:
        A `Speech` for one text, a list of them for a list.

    Raises:
        TextError, VoiceError, AudioError, RequestError, CheckpointError: before anything slow.
    """
    begun = time.perf_counter()
    options = Options(
        guidance=guidance,
        steps=steps,
        solver=solver,
        temperature=temperature,
        top_p=top_p,
        max_seconds=max_seconds,
        normalize_text=normalize_text,
    )
    texts = [text] if isinstance(text, str) else list(text)
    utterances = _prepare(model, texts, voice, ref, seed, options)
    lines = [line for utterance in utterances for line in utterance.lines]
    order = sorted(range(len(lines)), key=lambda i: -lines[i].most_frames)
    spoken: list[list[Chunk]] = [[] for _ in lines]
    first_audio = None
    for start in range(0, len(order), MOST_LINES):
        group = order[start : start + MOST_LINES]
        batch = [lines[i] for i in group]
        for chunks in speak(model, batch, options.sampler(model), _chunk_frames(model)):
            if first_audio is None:
                first_audio = time.perf_counter() - begun
            for i, chunk in zip(group, chunks, strict=True):
                if chunk is not None:
                    spoken[i].append(chunk)
            if on_progress is not None:
                frames = sum(len(chunk.codes) for chunks in spoken for chunk in chunks)
                on_progress(frames / model.config.codec.frame_rate)
    timings = Timings(first_audio or 0.0, time.perf_counter() - begun)
    speeches, taken = [], 0
    for utterance in utterances:
        own = spoken[taken : taken + len(utterance.lines)]
        taken += len(own)
        parts = (chunk for chunks in own for chunk in chunks)
        whole = list(_joined(model, utterance, parts, options))
        samples = np.concatenate([piece[0] for piece in whole])
        codes = np.concatenate([piece[1] for piece in whole])
        speeches.append(Speech(samples, model.sample_rate, codes, whole[-1][2], timings))
    return speeches[0] if isinstance(text, str) else speeches


def stream(
    model: Model,
    text: str,
    *,
    voice: str | Voice | None = None,
    ref: Reference | None = None,
    seed: int = 0,
    guidance: float = 1.2,
    steps: int | None = None,
    solver: str = "euler",
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_seconds: float | None = None,
    normalize_text: bool = True,
    chunk_frames: int = CHUNK_FRAMES,
) -> Iterator[Speech]:
    """Speaks a text chunk by chunk; the chunks together are what `synthesize` returns.

    Args:
        chunk_frames: frames made between two chunks; the first audio is there after as many.
        others: as in `synthesize`, for one text.

    Returns:
        An iterator of `Speech`; the last one names the finish reason. Bad input raises at the call.
    """
    begun = time.perf_counter()
    options = Options(
        guidance=guidance,
        steps=steps,
        solver=solver,
        temperature=temperature,
        top_p=top_p,
        max_seconds=max_seconds,
        normalize_text=normalize_text,
    )
    if not isinstance(text, str):
        raise RequestError("stream speaks one text; use synthesize for a list")
    if not isinstance(chunk_frames, int) or not 1 <= chunk_frames <= 1024:
        raise RequestError(f"chunk_frames must be from 1 to 1024, got {chunk_frames!r}")
    utterance = _prepare(model, [text], voice, ref, seed, options)[0]
    size = max(chunk_frames, opening_frames(model.config.codec))

    def chunks() -> Iterator[Speech]:
        sampler = options.sampler(model)
        parts = (
            chunk
            for line in utterance.lines
            for (chunk,) in speak(model, [line], sampler, size)
            if chunk is not None
        )
        first_audio = None
        for samples, codes, reason in _joined(model, utterance, parts, options):
            now = time.perf_counter() - begun
            if first_audio is None and len(samples):
                first_audio = now
            timings = Timings(now if first_audio is None else first_audio, now)
            yield Speech(samples, model.sample_rate, codes, reason, timings)

    return chunks()


def _chunk_frames(model: Model) -> int:
    return max(CHUNK_FRAMES, opening_frames(model.config.codec))


def _prepare(
    model: Model, texts: list[str], voice: Any, ref: Any, seed: Any, options: Options
) -> list[_Utterance]:
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
    voices = _voices(model, _each(voice, len(texts), "voice"), _each(ref, len(texts), "ref"))
    return [
        _utterance(model, text, one, int(value), options)
        for text, one, value in zip(cleaned, voices, seeds, strict=True)
    ]


def _each(value: Any, count: int, name: str) -> list[Any]:
    """One value for each text: a list as it is, anything else repeated."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise RequestError(f"{name}: {len(value)} values for {count} texts")
    return value


def _voices(model: Model, voices: list[Any], refs: list[Any]) -> list[Voice]:
    """The voice of each text; a preset is read and a recording encoded only once."""
    known: dict[Any, Voice] = {}

    def find(voice: Any, ref: Any) -> Voice:
        if isinstance(voice, Voice):
            voice.check(model.config)
            return voice
        key = voice if ref is None else (id(ref) if isinstance(ref, tuple) else str(ref), "ref")
        if key not in known:
            known[key] = model.voice(voice) if ref is None else make_voice(model, ref)
        return known[key]

    return [find(voice, ref) for voice, ref in zip(voices, refs, strict=True)]


def _utterance(model: Model, text: str, voice: Voice, seed: int, options: Options) -> _Utterance:
    config = model.config
    lines, pauses = [], []
    for part in split_text(text):
        limits = frame_limits(part.text, config.codec.frame_rate)
        most = limits.maximum
        if options.max_seconds is not None:
            most = max(1, min(most, round(options.max_seconds * config.codec.frame_rate)))
        ids = prompt_ids(config, model.tokenizer, part.text, len(voice.embedding))
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
                guidance=options.guidance,
                temperature=options.temperature,
                top_p=options.top_p,
            )
        )
        pauses.append(part.pause_after)
    return _Utterance(lines, pauses)


def _joined(
    model: Model, utterance: _Utterance, parts: Iterator[Chunk], options: Options
) -> Iterator[tuple[np.ndarray, np.ndarray, FinishReason | None]]:
    """Joins the chunks of an utterance's lines: samples, codes and finally the finish reason."""
    joiner = PartJoiner(len(utterance.lines), model.sample_rate)
    left = None if options.max_seconds is None else round(options.max_seconds * model.sample_rate)
    cut, line = False, 0
    for chunk in parts:
        samples = joiner.push(chunk.samples)
        if chunk.finish_reason is not None:
            samples = np.concatenate([samples, joiner.end_part(utterance.pauses[line])])
            cut |= chunk.finish_reason == "length"
            line += 1
        last = line == len(utterance.lines)
        if left is not None:
            full = len(samples) >= left
            cut |= len(samples) > left or (full and not last)
            last |= full
            samples = samples[:left]
            left -= len(samples)
        reason: FinishReason | None = ("length" if cut else "stop") if last else None
        yield samples, chunk.codes, reason
        if last:
            return
