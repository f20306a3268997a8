"""Voices of recordings and files, each made once however many jobs it speaks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING

from voxtral_jax.cloning import make_voice
from voxtral_jax.serving.batch.jobs import Job
from voxtral_jax.voice import Voice

if TYPE_CHECKING:
    from voxtral_jax.model import Model

MOST_KEPT = 256
"""Voices held in memory (a few MB each at most); the one unused for longest goes first."""


class Voices:
    """Finds the voice of a job; any number of threads may ask."""

    def __init__(self, model: Model, most: int = MOST_KEPT) -> None:
        self._model, self._most = model, most
        self._known: OrderedDict[str, Future[Voice]] = OrderedDict()
        self._lock = Lock()

    def of(self, job: Job) -> str | Voice | None:
        """What the engine's `voice` takes: a made voice, a preset's name, or None.

        Raises:
            VoxtralError: the recording or file is no voice; asked again, the same error.
        """
        source = job.source
        if source is None or job.source_digest is None:
            return job.voice
        if job.ref is None:
            return self._find(job.source_digest, lambda: Voice.load(source))
        return self._find(job.source_digest, lambda: make_voice(self._model, source))

    def _find(self, digest: str, make: Callable[[], Voice]) -> Voice:
        # By the bytes, not the name: copies of a recording are one voice.
        with self._lock:
            found = self._known.get(digest)
            ours = found is None
            if found is None:
                found = self._known[digest] = Future()
            self._known.move_to_end(digest)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        if ours:
            # Threads that ask meanwhile wait for this one.
            try:
                found.set_result(make())
            except BaseException as error:
                found.set_exception(error)
        return found.result()
