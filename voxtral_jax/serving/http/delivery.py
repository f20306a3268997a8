"""The answer to a speech request: whole, as chunks of a file, or as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from voxtral_jax.errors import EngineError
from voxtral_jax.serving.http.encoding import CODINGS, Encoder
from voxtral_jax.serving.http.failures import Refusal, describe
from voxtral_jax.serving.http.recital import GoneError, Recital, watched
from voxtral_jax.serving.http.schemas import SpeechRequest

log = logging.getLogger(__name__)


class Delivery(Response):
    """Speaks while it answers. Errors before the first audio are answers with their own status.

    Later ones end a stream of events with an event, and cut off a stream of audio, so that nobody
    takes a part for the whole.

    Args:
        recital: to deliver.
        request: how.
        sample_rate: in Hz.
        deadline: of the event loop's clock.
    """

    def __init__(
        self,
        recital: Recital,
        request: SpeechRequest,
        *,
        sample_rate: int,
        deadline: float,
    ) -> None:
        super().__init__()
        self._recital = recital
        self._request = request
        self._rate = sample_rate
        self._deadline = deadline
        self._started = self._finished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""
        outcome = "cancelled"
        try:
            async with watched(receive, self._deadline):
                if self._request.stream_format == "sse":
                    await self._events(send)
                elif self._request.stream:
                    await self._audio(send)
                else:
                    await self._whole(scope, receive, send)
            outcome = self._recital.finish_reason or outcome
        except GoneError:
            # The end of an answer can look as if the client had left.
            reason = self._recital.finish_reason if self._finished else None
            outcome = reason or "disconnected"
        except Exception as error:
            failure = describe(error)
            outcome = failure.code
            if not self._started:
                raise
            if failure.status == 500:
                log.exception("a speech ended early")
            if self._request.stream_format == "sse":
                await self._send_event(send, "error", error=failure.error)
                await self._finish(send)
        finally:
            self._recital.end(outcome)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoder = Encoder(self._request.response_format, self._rate, whole=True)
        async for samples in self._recital.samples():
            await asyncio.to_thread(encoder.push, samples)
        reason = self._complete()
        data = await asyncio.to_thread(encoder.finish)
        headers = self._about() | {
            "X-Finish-Reason": reason,
            "X-Audio-Seconds": f"{self._recital.seconds:.3f}",
        }
        media_type = CODINGS[self._request.response_format].media_type
        self._started = self._finished = True
        await Response(data, headers=headers, media_type=media_type)(scope, receive, send)

    async def _audio(self, send: Send) -> None:
        encoder = Encoder(self._request.response_format, self._rate)
        media_type = CODINGS[self._request.response_format].media_type
        async for samples in self._recital.samples():
            await self._start(send, media_type)
            await self._send(send, await asyncio.to_thread(encoder.push, samples))
        self._complete()
        await self._start(send, media_type)
        await self._send(send, await asyncio.to_thread(encoder.finish))
        await self._finish(send)

    async def _events(self, send: Send) -> None:
        encoder = Encoder(self._request.response_format, self._rate)
        async for samples in self._recital.samples():
            await self._start(send, "text/event-stream")
            await self._send_delta(send, await asyncio.to_thread(encoder.push, samples))
        reason = self._complete()
        await self._start(send, "text/event-stream")
        await self._send_delta(send, await asyncio.to_thread(encoder.finish))
        tokens, frames = self._recital.text_tokens, self._recital.frames
        await self._send_event(
            send,
            "speech.audio.done",
            finish_reason=reason,
            seconds=round(self._recital.seconds, 3),
            usage={
                "input_tokens": tokens,
                "output_tokens": frames,
                "total_tokens": tokens + frames,
            },
        )
        await self._finish(send)

    def _complete(self) -> str:
        """The finish reason of a speech that was not cut off by the server's end."""
        reason = self._recital.finish_reason
        if reason is None:
            raise EngineError("the engine ended a speech without saying why")
        if reason == "cancelled":
            raise Refusal(503, "cancelled", "the server ended before the speech did")
        return reason

    def _about(self) -> dict[str, str]:
        return {"X-Sample-Rate": str(self._rate), "Cache-Control": "no-store"}

    async def _start(self, send: Send, media_type: str) -> None:
        if self._started:
            return
        # Proxies are asked not to collect the pieces.
        headers = self._about() | {"Content-Type": media_type, "X-Accel-Buffering": "no"}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        self._started = True

    async def _send(self, send: Send, data: bytes) -> None:
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _send_delta(self, send: Send, data: bytes) -> None:
        if data:
            audio = base64.b64encode(data).decode()
            await self._send_event(send, "speech.audio.delta", audio=audio)

    async def _send_event(self, send: Send, kind: str, **fields: Any) -> None:
        data = json.dumps({"type": kind, **fields})
        await self._send(send, f"event: {kind}\ndata: {data}\n\n".encode())

    async def _finish(self, send: Send) -> None:
        self._finished = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})
