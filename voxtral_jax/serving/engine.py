"""The engine: requests of many threads on one model, spoken side by side in slots.

One thread drives the device. Between two chunks of frames it lets requests in and out; everything
slow on the host (phonemes, encoding a reference) happens in the thread that asks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from voxtral_jax.cloning import Reference, make_voice
from voxtral_jax.codec.run import opening_frames
from voxtral_jax.errors import BusyError, ClosedError, EngineError, RequestError, TextError
from voxtral_jax.flow import Sampler
from voxtral_jax.serving.lines import Chunk
from voxtral_jax.serving.room import chunk_size, engine_room
from voxtral_jax.serving.scheduler import Scheduler
from voxtral_jax.serving.settings import EngineSettings, Status
from voxtral_jax.serving.talk import Talk
from voxtral_jax.serving.warmup import warm_up
from voxtral_jax.serving.work import Work
from voxtral_jax.synthesis import Assembly
from voxtral_jax.utterance import Options, prepare
from voxtral_jax.voice import Voice

if TYPE_CHECKING:
    from voxtral_jax.model import Model

log = logging.getLogger(__name__)


class Engine:
    """Speaks the requests of any number of threads; a context manager.

    Args:
        model: from `load_model`.
        settings: sizes and limits.
    """

    def __init__(self, model: Model, settings: EngineSettings | None = None) -> None:
        self.model = model
        self.settings = settings = settings or EngineSettings()
        config = model.config
        least = opening_frames(config.codec)
        self._chunks = tuple(sorted({max(least, count) for count in settings.chunk_frames}))
        self._room = engine_room(model, settings, max(self._chunks))
        own = config.flow.n_decoding_steps
        self._samplers = {
            steps: Options(steps=steps).sampler(model) for steps in {own, *settings.steps}
        }
        self._changed = threading.Condition()
        self._preparing = threading.Lock()
        self._waiting: deque[Work] = deque()
        self._working: dict[Talk, Work] = {}
        self._open = self._ends = self._broken = False
        self._frames = self._failures = 0
        self._pace = 0.0
        self._thread = threading.Thread(target=self._drive, name="voxtral-engine", daemon=True)

    def __enter__(self) -> Engine:
        warm_up(self.model, self._room, self._chunks, tuple(self._samplers.values()))
        self._open = True
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, drain: float = 0.0) -> None:
        """Refuses new requests, lets running ones end, cancels what is left, stops the thread.

        Args:
            drain: seconds that requests have to end.
        """
        until = time.monotonic() + drain
        with self._changed:
            self._open = False
            while (self._waiting or self._working) and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            for work in [*self._waiting, *self._working.values()]:
                work.talk.cancel()
            self._ends = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def status(self) -> Status:
        """What it is doing now."""
        with self._changed:
            return Status(
                slots=self._room.slots,
                busy=len(self._working),
                waiting=len(self._waiting),
                frames=self._frames,
                failures=self._failures,
                alive=self._open and self._thread.is_alive(),
                broken=self._broken,
            )

    def speak(
        self,
        text: str,
        *,
        voice: str | Voice | None = None,
        ref: Reference | None = None,
        seed: int = 0,
        guidance: float | None = None,
        noise_scale: float | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_seconds: float | None = None,
        normalize_text: bool = True,
        language: str | None = None,
    ) -> Talk:
        """Queues a text; its speech is what `synthesize` makes of the same arguments.

        Args:
            text: what to say, and all others: see `voxtral_jax.synthesize`.
            steps: one of the settings' (each is a program of its own), or None.

        Returns:
            The talk, whose chunks come as they are made.

        Raises:
            TextError, VoiceError, AudioError, RequestError, CheckpointError: the request is wrong.
            BusyError: the queue is full.
            ClosedError: the engine is not open.
            EngineError: the device failed for good.
        """
        options = Options(
            guidance=guidance,
            noise_scale=noise_scale,
            steps=steps,
            temperature=temperature,
            top_p=top_p,
            max_seconds=max_seconds,
            normalize_text=normalize_text,
        )
        sampler = self._sampler(options)
        if not isinstance(text, str):
            raise TextError(f"the engine speaks one text at a time, got {type(text).__name__}")
        if len(text) > self.settings.longest_text:
            raise TextError(
                f"the text has {len(text)} characters, {self.settings.longest_text} are allowed"
            )
        self._admissible()
        if ref is not None and voice is None:
            voice, ref = make_voice(self.model, ref), None
        with self._preparing:
            # The phonemizers behind it are not thread-safe.
            utterance = prepare(self.model, [text], voice, ref, seed, language, options)[0]
        self._room.check(utterance.lines, self.model.config.codec.frame_rate)
        talk = Talk(
            self.model.sample_rate,
            self.model.config.codec.n_codebooks,
            self._forget,
            utterance.text_tokens,
        )
        assembly = Assembly(self.model, utterance, options)
        work = Work(talk, utterance, assembly, sampler, deque(utterance.lines))
        with self._changed:
            self._admissible()
            self._waiting.append(work)
            self._changed.notify_all()
        return talk

    def _sampler(self, options: Options) -> Sampler:
        sampler = options.sampler(self.model)
        if sampler.steps not in self._samplers:
            raise RequestError(
                f"this engine was started for {', '.join(map(str, sorted(self._samplers)))} "
                f"steps, not {sampler.steps}"
            )
        return sampler

    def _admissible(self) -> None:
        """Raises BusyError or ClosedError unless the queue has room."""
        with self._changed:
            if self._broken:
                raise EngineError("the device failed for good; start the engine anew")
            if not self._open or not self._thread.is_alive():
                raise ClosedError("the engine is closed to new requests")
            if len(self._waiting) >= self.settings.most_waiting:
                # About as long as the queue takes at the pace of the latest requests.
                wait = self._pace * len(self._waiting) / self._room.slots
                raise BusyError(
                    f"{len(self._waiting)} requests are waiting; try again later",
                    retry_after=max(1.0, wait),
                )

    def _forget(self, talk: Talk) -> None:
        """A talk was cancelled by whoever listens."""
        with self._changed:
            self._waiting = deque(work for work in self._waiting if work.talk is not talk)
            self._changed.notify_all()

    # The engine's own thread

    def _drive(self) -> None:
        try:
            while self._drive_slots(Scheduler[Talk](self.model, self._room)):
                pass  # whatever the device did, the next requests get fresh slots
        except Exception as error:
            # There are none to be had: nobody shall wait for them.
            self._give_up(error)

    def _drive_slots(self, scheduler: Scheduler[Talk]) -> bool:
        """Until the engine ends, or (true) the device fails. The slots' memory is free then."""
        while True:
            with self._changed:
                while not (self._ends or self._waiting or self._working):
                    self._changed.wait()
                if self._ends and not self._working:
                    return False
            try:
                self._turn(scheduler)
            except Exception as error:
                self._fail(error, [*self._working])
                return True

    def _turn(self, scheduler: Scheduler[Talk]) -> None:
        for talk in [talk for talk in self._working if talk.over]:
            scheduler.cancel(talk)
            self._end(talk)
        budget = self.settings.admit_tokens
        while scheduler.free and budget > 0:
            with self._changed:
                if not self._waiting:
                    break
                work = self._waiting.popleft()
                self._working[work.talk] = work
            if not work.talk.over:
                budget -= self._start(scheduler, work)
        load = len(self._working) / self._room.slots
        youngest = min((work.frames for work in self._working.values()), default=0)
        for talk, chunk in scheduler.step(chunk_size(self._chunks, load, youngest)):
            self._frames += len(chunk.codes)
            if not talk.over:
                self._hand_out(scheduler, self._working[talk], chunk)

    def _start(self, scheduler: Scheduler[Talk], work: Work) -> int:
        """Gives the next line of a request a slot; returns the tokens that took."""
        line = work.lines.popleft()
        scheduler.admit([(work.talk, line, work.sampler)])
        work.talk.begin()
        return len(line.ids)

    def _hand_out(self, scheduler: Scheduler[Talk], work: Work, chunk: Chunk) -> None:
        piece = work.assembly.push(chunk)
        assert piece is not None, "a talk that is over is no longer at work"
        samples, codes, reason = piece
        work.frames += len(codes)
        work.talk.put(samples, codes, reason)
        if reason is not None:
            scheduler.cancel(work.talk)
            self._end(work.talk)
        elif chunk.finish_reason is not None:
            # The slot that its last line has just left is the request's until all are spoken.
            self._start(scheduler, work)

    def _end(self, talk: Talk) -> None:
        with self._changed:
            del self._working[talk]
            taken = (talk.seconds or 0.0) - (talk.waited or 0.0)
            self._pace = 0.8 * self._pace + 0.2 * taken if self._pace else taken
            self._changed.notify_all()

    def _fail(self, error: Exception, talks: Iterable[Talk]) -> None:
        with self._changed:
            self._failures += 1
            for talk in talks:
                talk.fail(EngineError(f"the device failed: {error}"))
                self._working.pop(talk, None)
            self._changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        log.error("the engine cannot go on", exc_info=error)
        with self._changed:
            self._open, self._broken = False, True
            self._fail(error, [*self._working, *(work.talk for work in self._waiting)])
            self._waiting.clear()
