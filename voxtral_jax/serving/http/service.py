"""What all routes share: the engine, the voices, the figures, and the way from request to talk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from voxtral_jax.codec.run import require_encoder
from voxtral_jax.errors import BusyError, ClosedError, RequestError
from voxtral_jax.serving.http.failures import RETRY_SECONDS
from voxtral_jax.serving.http.fetching import Fetcher
from voxtral_jax.serving.http.metrics import Metrics
from voxtral_jax.serving.http.references import decode_reference, open_reference
from voxtral_jax.serving.http.schemas import Manner
from voxtral_jax.serving.http.settings import ServerSettings
from voxtral_jax.serving.http.voices import VoiceStore
from voxtral_jax.watermark.marking import watermark

if TYPE_CHECKING:
    from voxtral_jax.serving.engine import Engine, Talk
    from voxtral_jax.serving.http.conversation import Conversation

THREADS = 4
"""Requests whose text and reference are worked on at once; the rest of them stand in line."""

Result = TypeVar("Result")


class Service:
    """The server without HTTP.

    Attributes:
        engine: speaks.
        settings: what is allowed.
        voices: presets and kept ones.
        metrics: figures.
        fetch: gets references from URLs.
        mark: the watermark that goes into all audio, or None.
        draining: whether the server has been told to end.
        conversations: those that are open; told to `finish`, they leave by themselves.
    """

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.voices = VoiceStore(engine.model, settings.voices, settings.most_voices)
        self.metrics = Metrics(engine)
        self.fetch = Fetcher(settings.url_hosts, settings.largest_reference, settings.url_seconds)
        self.mark = watermark(engine.model.sample_rate) if settings.watermark else None
        self.draining = False
        self.conversations: set[Conversation] = set()
        self._open = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="voxtral-prepare")

    @property
    def ready(self) -> bool:
        """Whether new requests are taken."""
        return self.engine.status.alive and not self.draining

    def check_ready(self) -> None:
        """Raises ClosedError unless new requests are taken."""
        if self.draining:
            raise ClosedError("the server is ending; ask another one, or again later")
        self.check_health()
        if not self.engine.status.alive:
            raise ClosedError("the server is starting; ask again later")

    def check_health(self) -> None:
        """Raises ClosedError if it can never speak again."""
        if self.engine.status.broken:
            raise ClosedError("the device failed for good; the server must be started anew")

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among the requests being read and prepared.

        Raises:
            BusyError: there are too many.
        """
        if self._open >= self.settings.most_open:
            message = f"{self._open} requests are being read, which is the most; try again later"
            raise BusyError(message, retry_after=RETRY_SECONDS)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def in_thread(self, function: Callable[..., Result], *args: Any, **how: Any) -> Result:
        """Runs blocking work in one of a few threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **how))

    async def recording(self, value: str | bytes) -> Any:
        """A reference's samples and rate.

        Raises:
            CheckpointError: the model cannot clone.
            AudioError, RequestError: the reference cannot be used.
        """
        # First of all: nothing is fetched or decoded in vain.
        require_encoder(self.engine.model)
        file = await open_reference(value, self.fetch)
        return await self.in_thread(decode_reference, file, self.settings)

    async def speaker(self, manner: Manner, upload: bytes | None = None) -> dict[str, Any]:
        """Who speaks, as the engine's options `voice` or `ref`.

        Args:
            manner: of the request.
            upload: reference that came as a file.

        Raises:
            VoiceError, RequestError, AudioError, CheckpointError: nobody can.
        """
        reference = upload if upload is not None else manner.ref_audio
        if reference is not None and manner.voice is not None:
            raise RequestError("give a voice or a reference recording, not both")
        if reference is not None:
            return {"ref": await self.recording(reference)}
        if manner.voice_name is None:
            return {}
        return {"voice": await self.in_thread(self.voices.find, manner.voice_name)}

    async def speak(self, text: str, **options: Any) -> Talk:
        """`Engine.speak`, without blocking; what it starts is cancelled with whoever waits for it.

        Not refused while the server ends: whoever asks was let in before.
        """
        starting = asyncio.ensure_future(self.in_thread(self.engine.speak, text, **options))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_abandon)
            raise


def _abandon(started: asyncio.Future[Talk]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().cancel()
