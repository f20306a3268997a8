"""A talk as it is delivered: marked, counted, and over as soon as nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from starlette.types import Receive

from voxtral_jax.serving.http.failures import Refusal
from voxtral_jax.serving.http.service import Service
from voxtral_jax.speech import FinishReason

if TYPE_CHECKING:
    from voxtral_jax.serving.engine import Talk


class GoneError(Exception):
    """The client left."""


class Recital:
    """The samples of a talk, in order, and what is known of them.

    Args:
        service: whose watermark they bear, and whose figures count them.
        talk: is spoken.
        begun: when the request came (`time.perf_counter`).

    Attributes:
        text_tokens: of the text.
        frames: made so far.
        seconds: of audio made so far.
        finish_reason: None until the end.
    """

    def __init__(self, service: Service, talk: Talk, begun: float) -> None:
        self._metrics = service.metrics
        self._mark = service.mark
        self._talk = talk
        self._begun = begun
        self.text_tokens = talk.text_tokens
        self.frames = 0
        self.seconds = 0.0
        self.finish_reason: FinishReason | None = None

    async def samples(self) -> AsyncIterator[Float[np.ndarray, " S"]]:
        """All samples; none of the pieces is empty."""
        mark = self._mark
        state = None if mark is None else mark.begin()
        async for chunk in self._talk:
            if self.seconds == 0 and len(chunk.samples):
                self._metrics.first_audio.observe(time.perf_counter() - self._begun)
            self.frames += len(chunk.codes)
            self.seconds += chunk.seconds
            self._metrics.frames.inc(len(chunk.codes))
            self._metrics.audio.inc(chunk.seconds)
            self.finish_reason = chunk.finish_reason
            samples = chunk.samples
            if mark is not None and state is not None:
                samples, state = await asyncio.to_thread(mark.push, samples, state)
            if len(samples):
                yield samples
        if self.finish_reason in ("stop", "length") and self.seconds:
            # As the engine saw it: a client that reads slowly does not count.
            making = (self._talk.seconds or 0.0) - (self._talk.waited or 0.0)
            self._metrics.real_time_factor.observe(making / self.seconds)

    def end(self, outcome: str) -> None:
        """Frees the slot, whatever happened, and counts how the request ended."""
        self._talk.cancel()
        self._metrics.requests.labels(outcome).inc()


@asynccontextmanager
async def watched(receive: Receive, deadline: float) -> AsyncIterator[None]:
    """The body runs as long as the client is there, and until the deadline at most.

    Args:
        receive: of ASGI; the request's body has been read.
        deadline: of the event loop's clock.

    Raises:
        GoneError: the client left.
        Refusal: it took too long.
    """
    gone = False
    try:
        async with asyncio.timeout_at(deadline) as limit:

            async def watch() -> None:
                nonlocal gone
                while (await receive())["type"] != "http.disconnect":
                    pass
                gone = True
                if not limit.expired():
                    limit.reschedule(asyncio.get_running_loop().time())

            watcher = asyncio.create_task(watch())
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError:
        if gone:
            raise GoneError from None
        message = "the speech took too long; ask for less text, or when less is asked for"
        raise Refusal(504, "timeout", message) from None
