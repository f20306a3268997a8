"""Text and voice to speech: composes prompt, decoder, flow and codec.

`synthesize` speaks all parts of all texts side by side; `stream` speaks one part after the other
and hands out what there is. Noise depends on seed and frame alone, so both say the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from voxtral_jax.audio import PartJoiner
from voxtral_jax.cloning import Reference
from voxtral_jax.codec.run import opening_frames
from voxtral_jax.errors import RequestError, TextError
from voxtral_jax.flow import Sampler
from voxtral_jax.serving.lines import Chunk, Line
from voxtral_jax.serving.room import Room
from voxtral_jax.serving.scheduler import Scheduler
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
    guidance: float | None = None,
    noise_scale: float | None = None,
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
        guidance: how closely the flow follows the decoder; 1 is none. The model's own by default.
        noise_scale: times the noise that the flow starts from: less is clearer and less varied, 1
            is what models learn from. The model's own by default.
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
        noise_scale=noise_scale,
        steps=steps,
        solver=solver,
        temperature=temperature,
        top_p=top_p,
        max_seconds=max_seconds,
        normalize_text=normalize_text,
    )
    if not isinstance(text, Sequence):
        raise TextError(f"give one text or a list of them, got {type(text).__name__}")
    texts = [text] if isinstance(text, str) else [*text]
    utterances = prepare(model, texts, voice, ref, seed, language, options)
    lines = [line for utterance in utterances for line in utterance.lines]
    spoken: list[list[Chunk]] = [[] for _ in lines]
    first_audio = None
    for chunks in _side_by_side(model, lines, options.sampler(model)):
        if first_audio is None:
            first_audio = time.perf_counter() - begun
        for i, chunk in chunks:
            spoken[i].append(chunk)
        if on_progress is not None:
            frames = sum(len(chunk.codes) for chunks in spoken for chunk in chunks)
            on_progress(frames / model.config.codec.frame_rate)
    timings = Timings(first_audio or 0.0, time.perf_counter() - begun)
    speeches, taken = [], 0
    for utterance in utterances:
        own = spoken[taken : taken + len(utterance.lines)]
        taken += len(own)
        assembly = Assembly(model, utterance, options)
        pieces = (assembly.push(chunk) for chunks in own for chunk in chunks)
        whole = [piece for piece in pieces if piece is not None]
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
    guidance: float | None = None,
    noise_scale: float | None = None,
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
        noise_scale=noise_scale,
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
    room = _room(model, utterance.lines, 1, size)

    def chunks() -> Iterator[Speech]:
        assembly = Assembly(model, utterance, options)
        first_audio = None
        for chunk in _one_after_the_other(model, room, utterance.lines, options.sampler(model)):
            piece = assembly.push(chunk)
            if piece is None:
                return
            samples, codes, reason = piece
            now = time.perf_counter() - begun
            if first_audio is None and len(samples):
                first_audio = now
            timings = Timings(now if first_audio is None else first_audio, now)
            yield Speech(samples, model.sample_rate, codes, reason, timings)

    return chunks()


def _room(model: Model, lines: Sequence[Line], most_slots: int, chunk: int) -> Room:
    if model.batch_invariant is None:
        return Room.of(lines, most_slots, chunk)
    room = Room.invariant_of(model.batch_invariant, chunk)
    room.check(lines, model.config.codec.frame_rate)
    return room


def _side_by_side(
    model: Model, lines: Sequence[Line], sampler: Sampler
) -> Iterator[list[tuple[int, Chunk]]]:
    """Speaks lines, the longest first; yields what is made of which (its number)."""
    size = max(CHUNK_FRAMES, opening_frames(model.config.codec))
    scheduler = Scheduler[int](model, _room(model, lines, MOST_LINES, size))
    waiting = deque(sorted(range(len(lines)), key=lambda i: -lines[i].most_frames))
    together = scheduler.free
    while waiting or scheduler.busy:
        while waiting and scheduler.free:
            # All at once at the start; later one by one, which is one program for any number.
            group = [waiting.popleft() for _ in range(min(together, len(waiting)))]
            scheduler.admit([(i, lines[i], sampler) for i in group])
            together = 1
        if chunks := scheduler.step(size):
            yield chunks


def _one_after_the_other(
    model: Model, room: Room, lines: Sequence[Line], sampler: Sampler
) -> Iterator[Chunk]:
    """Speaks lines in their order, in the longest chunks that there is room for."""
    scheduler = Scheduler[int](model, room)
    for i, line in enumerate(lines):
        scheduler.admit([(i, line, sampler)])
        while scheduler.busy:
            for _, chunk in scheduler.step(room.chunk):
                yield chunk


class Assembly:
    """Joins the chunks of an utterance's lines to one speech.

    Args:
        model: whose speech it is.
        utterance: its lines are pushed chunk by chunk, in order.
        options: as they were prepared with.
    """

    def __init__(self, model: Model, utterance: Utterance, options: Options) -> None:
        self._utterance = utterance
        self._joiner = PartJoiner(len(utterance.lines), model.sample_rate)
        limit = options.max_seconds
        self._left = None if limit is None else round(limit * model.sample_rate)
        self._cut = self._over = False
        self._line = 0

    def push(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray, FinishReason | None] | None:
        """Samples that can be played now, codes, and at the end the finish reason.

        None for what comes after the end: a limit can be reached before the last line is.
        """
        if self._over:
            return None
        samples = self._joiner.push(chunk.samples)
        if chunk.finish_reason is not None:
            pause = self._utterance.pauses[self._line]
            samples = np.concatenate([samples, self._joiner.end_part(pause)])
            self._cut |= chunk.finish_reason == "length"
            self._line += 1
        self._over = self._line == len(self._utterance.lines)
        if self._left is not None:
            full = len(samples) >= self._left
            self._cut |= len(samples) > self._left or (full and not self._over)
            self._over |= full
            samples = samples[: self._left]
            self._left -= len(samples)
        reason: FinishReason | None = ("length" if self._cut else "stop") if self._over else None
        return samples, chunk.codes, reason
