"""A request under way, as whoever asked for it sees it: chunks of speech, the end, a way out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import numpy as np
from jaxtyping import Float, Int

from voxtral_jax.errors import EngineError, RequestError
from voxtral_jax.speech import FinishReason, Speech, Timings


class Talk:
    """Chunks of speech as they are made, for one listener, in a thread or in asyncio.

    Made by `Engine.speak`. Iterating yields `Speech`, as `voxtral_jax.stream` does: the last one
    names the finish reason, `cancelled` after `cancel`. Raises EngineError if the device failed.
    Every chunk is handed out once.

    Args:
        sample_rate: in Hz.
        codebooks: K.
        forget: called once when it is cancelled.
        text_tokens: of what it says.

    Attributes:
        text_tokens: of what it says.
        waited: seconds from the request to its slot; None before.
        seconds: from the request to its end; None before.
    """

    def __init__(
        self,
        sample_rate: int,
        codebooks: int,
        forget: Callable[[Talk], None],
        text_tokens: int = 0,
    ) -> None:
        self.text_tokens = text_tokens
        self.waited: float | None = None
        self.seconds: float | None = None
        self._sample_rate = sample_rate
        self._codebooks = codebooks
        self._forget = forget
        self._begun = time.perf_counter()
        self._first_audio: float | None = None
        self._pieces: deque[Speech] = deque()
        self._error: EngineError | None = None
        self._changed = threading.Condition()
        self._wake: Callable[[], object] | None = None

    def __iter__(self) -> Iterator[Speech]:
        while True:
            with self._changed:
                while not self._ready:
                    self._changed.wait()
            piece = self._next()
            if piece is None:
                return
            yield piece

    async def __aiter__(self) -> AsyncIterator[Speech]:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._wake = lambda: loop.call_soon_threadsafe(event.set)
        while True:
            # Cleared before looking: what comes after the look sets it again.
            event.clear()
            while not self._ready:
                await event.wait()
                event.clear()
            piece = self._next()
            if piece is None:
                return
            yield piece

    def result(self) -> Speech:
        """All that was not handed out before, once it is over.

        Raises:
            RequestError: all of it was.
        """
        pieces = [*self]
        if not pieces:
            raise RequestError("all chunks of this talk were handed out before")
        return Speech(
            np.concatenate([piece.samples for piece in pieces]),
            self._sample_rate,
            np.concatenate([piece.codes for piece in pieces]),
            pieces[-1].finish_reason,
            pieces[-1].timings,
        )

    @property
    def over(self) -> bool:
        """Whether its last chunk is there, or it failed."""
        return self.seconds is not None

    def cancel(self) -> None:
        """Ends it; its slot is free within one chunk. Does nothing after the end."""
        nothing = np.zeros((0, self._codebooks), np.int32)
        if self.put(np.zeros(0, np.float32), nothing, "cancelled"):
            self._forget(self)

    @property
    def _ready(self) -> bool:
        """Whether there is a chunk, or will never be one again."""
        return bool(self._pieces) or self.over

    def _next(self) -> Speech | None:
        """The next chunk, if there is one; it is handed out once, so that none are kept."""
        if self._pieces:
            return self._pieces.popleft()
        if self._error is not None:
            raise self._error
        return None

    # For the engine

    def begin(self) -> None:
        """It has a slot."""
        if self.waited is None:
            self.waited = time.perf_counter() - self._begun

    def put(
        self,
        samples: Float[np.ndarray, " S"],
        codes: Int[np.ndarray, "frames K"],
        reason: FinishReason | None,
    ) -> bool:
        """The next chunk; False if it was over before, and the chunk is dropped."""
        with self._changed:
            if self.over:
                return False
            now = time.perf_counter() - self._begun
            if self._first_audio is None and len(samples):
                self._first_audio = now
            timings = Timings(now if self._first_audio is None else self._first_audio, now)
            self._pieces.append(Speech(samples, self._sample_rate, codes, reason, timings))
            if reason is not None:
                self.seconds = now
            self._tell()
            return True

    def fail(self, error: EngineError) -> None:
        """It cannot be finished."""
        with self._changed:
            if not self.over:
                self._error = error
                self.seconds = time.perf_counter() - self._begun
                self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._wake is not None:
            # The listener's loop may be closed: nobody listens then.
            with suppress(RuntimeError):
                self._wake()
