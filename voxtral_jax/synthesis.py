"""Text and voice to speech: composes prompt, decoder, flow and codec.

`synthesize` speaks all parts of all texts as one batch; `stream` speaks one part after the other
and hands out what there is. Noise depends on seed and frame alone, so both say the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from voxtral_jax.audio import PartJoiner
from voxtral_jax.cloning import Reference
from voxtral_jax.codec.run import opening_frames
from voxtral_jax.errors import RequestError
from voxtral_jax.runner import Chunk, speak
from voxtral_jax.speech import FinishReason, Speech, Timings
from voxtral_jax.utterance import Options, Utterance, prepare
from voxtral_jax.voice import Voice

if TYPE_CHECKING:
    from voxtral_jax.model import Model

MOST_LINES = 32
"""Parts generated together; more are taken in turns, longest first."""
CHUNK_FRAMES = 8
"""Frames decoded together (0.64 s): small enough to stream, large enough to keep a GPU busy."""


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
    language: str | Sequence[str | None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Speech | list[Speech]:
    """Speaks a text, or a list of texts as one batch.

    Long texts are split at sentences; the parts are spoken with the same voice and joined.

    Args:
        model: from `load_model`.
        text: one text or several, in any of the model's languages.
        voice: name of a preset (see `model.voices`) or a `Voice`; a list gives each text its own.
            Without voice and ref the default preset of the text's language speaks.
        ref: recording to clone, a file or (samples, rate); a list gives each text its own.
        seed: 0 to 2^32 - 1; the same seed gives the same audio, alone or in any batch.
        guidance: how closely the flow follows the decoder; 1 is no guidance.
        steps: of the flow; the checkpoint's own number by default.
        solver: "euler", or "midpoint" with two evaluations a step.
        temperature: of the semantic code; 0 takes the likeliest.
        top_p: share of the probability drawn from at a temperature.
        max_seconds: cuts the speech; a budget from the text's length applies in any case.
        normalize_text: clean up markup, emoji and odd white space first.
        language: of the text, such as "en", or of each; detected if it is None. Models that read
            phonemes need it, and the default voice follows from it.
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
    utterances = prepare(model, texts, voice, ref, seed, language, options)
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
    language: str | None = None,
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
    utterance = prepare(model, [text], voice, ref, seed, language, options)[0]
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


def _joined(
    model: Model, utterance: Utterance, parts: Iterator[Chunk], options: Options
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
